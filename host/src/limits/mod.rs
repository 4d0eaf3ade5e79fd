//! Table of every limit of the host. The code reads its limits from the table, and the reference page is
//! generated from it. Pure.
//!
//! A row is the constant that the code enforces. The constants are visible only inside this crate, and
//! [`ALL`] consists of the same rows without naming the constants. The compiler therefore rejects a row that
//! no code reads as dead code.

mod page;

use std::fmt::Display;
use std::time::Duration;

pub use self::page::{columns, markdown};

const KI: u64 = 1 << 10;
const MI: u64 = 1 << 20;
const GI: u64 = 1 << 30;
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;

/// A limit: one row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Name in kebab-case, distinct.
    pub name: &'static str,
    /// The limited quantity and the thing it belongs to.
    pub what: &'static str,
    /// The unit of the value.
    pub unit: Unit,
    /// The limit unless host.yaml sets another. 0 stands for the number of processors.
    pub default: u64,
    /// Whether host.yaml can change the limit.
    pub set: Set,
    /// The visible effect of exceeding the limit.
    pub over: Over,
}

/// The unit of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number of items.
    Count,
    /// Bytes.
    Bytes,
    /// Wall-clock time in milliseconds.
    Time,
}

/// Whether an operator can change a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// Yes, by this key of host.yaml.
    Key {
        /// Path of the key from the top of the file, or from the policy's entry.
        key: &'static str,
        /// The minimum.
        least: u64,
        /// The maximum.
        most: u64,
    },
    /// No, for this reason.
    Fixed(&'static str),
}

/// The visible effect of exceeding a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// A message, which may contain `{found}`, `{limit}` and `{key}`.
    Says(&'static str),
    /// Another effect, without a message of the host's own.
    Does(&'static str),
}

/// The limits of one part of the host, with the effect of exceeding them.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// A heading.
    pub title: &'static str,
    /// The effect of exceeding one of the group's limits.
    pub over: &'static str,
    /// Its rows.
    pub bounds: &'static [Bound],
}

macro_rules! bounds {
    ($($title:literal: $over:literal { $($name:ident = $row:expr;)* })*) => {
        $($(pub(crate) const $name: Bound = $row;)*)*

        /// All rows, in groups.
        pub const ALL: &[Group] = &[$(Group { title: $title, over: $over, bounds: &[$($row),*] }),*];
    };
}

bounds! {
    "A review":
    "What an apiserver sends. Over a bound the review is denied (HTTP 200, `allowed: false`) with the message as its \
     reason; only a full queue is answered 429, which the apiserver retries." {
        BODY = bytes("body", "a request's body", 4 * MI).key("limits.body", 64 * KI, 64 * MI)
            .says("the request's body is over {limit} bytes, the most that this host reads ({key})");
        BODY_DRAIN = bytes("body-drain", "what is read of a body over its bound, so that the client sees the answer", 64 * MI)
            .fixed("it only decides who is answered and who is cut off, of those that are refused anyway")
            .does("the connection is closed with the answer, whoever still sends");
        BODY_TIME = time("body-time", "for a request's body to arrive", 10 * SECOND)
            .fixed("the apiserver sends a body at once, and gives up after 30 s")
            .says("the request's body did not arrive within {limit}");
        IMAGES = count("images", "images of a review", 256).key("limits.images", 1, 10_000)
            .says("the review has {found} images; this host takes at most {limit} ({key})");
        ANNOTATIONS = bytes("annotations", "a review's annotations, keys and values", 256 * KI)
            .key("limits.annotations", KI, MI)
            .says("the review's annotations hold {found} bytes; this host takes at most {limit} ({key})");
        NAMESPACE = bytes("namespace", "a review's namespace", 63)
            .fixed("Kubernetes' namespaces are DNS labels (RFC 1123), and no label is longer")
            .says("the review's namespace has {found} bytes, and Kubernetes allows a namespace at most {limit}: see what \
                   sends such a request");
        REFERENCE = bytes("reference", "an image reference", image_reference::MAX_REFERENCE as u64)
            .fixed("every valid reference is shorter than 1024 bytes")
            .says("the image reference has {found} bytes: at most {limit} are allowed");
        REVIEW_DEADLINE = time("review-deadline", "for all policies of a review, and for the wait before", 10 * SECOND)
            .key("limits.reviewDeadline", 10, 25 * SECOND)
            .says("the review took longer than its budget of {limit} ({key})");
        CONCURRENT_REVIEWS = count("concurrent-reviews", "reviews evaluated at once", 0)
            .key("limits.concurrentReviews", 1, 64)
            .does("the review waits in the queue");
        QUEUE = count("queue", "reviews that wait; a client with fewer of them takes the place of one of the client with most", 1024).key("limits.queue", 0, 65_536)
            .says("this image policy host has too many reviews waiting");
    }

    "A connection":
    "What anyone who reaches a port can use up. Over a bound the connection waits or is closed, and the log says so \
     where that is of use." {
        CONNECTIONS = count("connections", "connections that the door serves", 1024)
            .key("limits.connections", 1, 65_536)
            .does("the client that has most of them gives one up, if the new one's client has fewer; else the connection waits until another ends");
        ADMIN_CONNECTIONS = count("admin-connections", "connections that the admin listener serves", 64)
            .fixed("a few probes and one scraper ask there, each for an instant")
            .says("admin listener: all {limit} connections are taken, so the one that was idle longest is closed (`ss -tnp` shows \
                   whose they are)");
        ENTERING = count("entering", "connections before the end of their handshake, or waiting for a place", 256)
            .fixed("more do no good: a client that means it is through in an instant")
            .does("one of the address that has most is closed: the oldest of those that stand at the same step of the handshake as most do");
        HANDSHAKE_TIME = time("handshake-time", "for a TLS handshake", 10 * SECOND)
            .fixed("Go's clients wait as long (net/http, TLSHandshakeTimeout)")
            .says("TLS handshake refused: it took longer than {limit}");
        HEADERS_TIME = time("headers-time", "from a request's first byte to the end of its headers, on HTTP/1.1", 10 * SECOND)
            .fixed("a client sends them at once")
            .does("the connection is closed");
        STALL_TIME = time("stall-time", "for a response to be taken: as bytes, and by HTTP/2's windows", 20 * SECOND)
            .fixed("it is as long as a network may be down for a moment")
            .does("the connection is closed");
        IDLE_TIME = time("idle-time", "without a request on a connection", 180 * SECOND)
            .fixed("it must be longer than the 90 s after which the apiserver closes (net/http, IdleConnTimeout)")
            .does("the connection is closed");
        STREAMS = count("streams", "requests under way on one HTTP/2 connection", 256)
            .fixed("a client that has more to ask waits, as HTTP/2 wants it")
            .does("the stream is refused (REFUSED_STREAM); clients retry");
        RESETS = count("resets", "streams that a client has reset before the host came to them", 20)
            .fixed("only an attack resets what it has just begun, again and again (CVE-2023-44487)")
            .does("the connection is closed (ENHANCE_YOUR_CALM)");
        STREAM_ERRORS = count("stream-errors", "streams that the host had to reset, because they broke the protocol", 64)
            .fixed("no client that works has any")
            .does("the connection is closed (ENHANCE_YOUR_CALM)");
        UNDER_WAY = bytes("under-way", "what requests under way hold on all connections: their headers, what has come of their bodies, responses that are not taken; one client gets at most as much as it leaves free", 256 * MI)
            .fixed("an apiserver has at most some hundred requests under way (--max-requests-inflight)")
            .says("this image policy host has too many requests under way");
        HEADERS = bytes("headers", "a request's line and headers", 64 * KI)
            .fixed("an apiserver's are less than 1 KiB")
            .does("HTTP 431");
        FAREWELL_TIME = time("farewell-time", "for a client to let go of a connection that is asked to end", 2 * SECOND)
            .fixed("a client needs a moment to learn of the end; from then on its requests are refused")
            .does("requests are refused (REFUSED_STREAM), and the connection is closed when those under way are answered");
        LINGER = time("linger", "that idle connections are kept for when the host is asked to stop", 2 * SECOND)
            .fixed("those in use get their last answer meanwhile, and the others are hardly asked in the instant of closing")
            .does("the connection is closed");
        RETIRE_TIME = time("retire-time", "that an idle HTTP/1.1 connection from before a change of certificates is kept for", 100 * SECOND)
            .fixed("it must be longer than the 90 s after which the apiserver closes it itself")
            .does("the connection is closed");
        STOP_TIME = time("stop-time", "for reviews that are still under way then", 20 * SECOND)
            .fixed("with the time for idle connections it is less than the 30 s after which kubelet kills")
            .says("stopped, but some reviews took too long to be finished");
    }

    "Certificates":
    "What the files of `tls` may hold. Over a bound the files are refused and what was in force stays, but for the names." {
        TLS_FILE = bytes("tls-file", "a file of certificates, or a private key", MI)
            .fixed("a bundle of all public authorities has 220 KiB")
            .says("larger than {limit} bytes: no file of certificates needs that");
        SERVING_CHAIN = bytes("serving-chain", "the serving certificate with its chain", 32 * KI)
            .fixed("a chain of five has 10 KiB, and some clients read at most 64 KiB in a handshake")
            .says("its certificates have {found} bytes, and clients read no more than {limit} for certain: keep the serving \
                   certificate and those between it and the authority");
        AUTHORITIES_OF_A_NAME = count("authorities-of-a-name", "client authorities with the same name", 32)
            .fixed("a client's chain is tried with each of them; two are there while one replaces the other")
            .says("{found} of its authorities have the same name, at most {limit} may: remove those that sign no clients");
        AUTHORITY_NAMES = bytes("authority-names", "names of client authorities in a handshake", 16 * KI)
            .fixed("a handshake holds less than 64 KiB of them, and clients need no names")
            .does("the handshake names none, and clients choose their certificate by themselves");
    }

    "The control socket":
    "What the host's own user, who alone can open it, uses up by accident. Over a bound the request is refused, and \
     the host serves on." {
        CONTROL_CONNECTIONS = count("control-connections", "requests under way on the control socket", 8)
            .fixed("people ask there, one thing at a time")
            .says("{limit} requests are under way on this host's control socket: ask again in a moment");
        CONTROL_REQUEST = bytes("control-request", "a request on the control socket", 4 * KI)
            .fixed("a request names at most a digest")
            .says("the request has more than {limit} bytes");
        CONTROL_TIME = time("control-time", "for a request to arrive on the control socket, and for its answer to be taken", 5 * SECOND)
            .fixed("both are on this machine")
            .does("the connection is closed");
    }

    "Loading a policy":
    "What a file may cost before it is in force. Over a bound it is not loaded: the version before it stays in force, \
     and log, `/status` and `/readyz?verbose` carry the message." {
        CONFIGURATION = bytes("configuration", "host.yaml", MI)
            .fixed("a configuration of 1,000 policies is a tenth of it")
            .says("larger than {limit} bytes");
        SETTINGS_FILE = bytes("settings-file", "a policy's settings in a file of their own", 4 * MI)
            .fixed("the longest lists, of 25,000 patterns, have 1.3 MiB, and a ConfigMap has 1 MiB at most")
            .says("larger than {limit} bytes");
        SETTINGS_FILES = bytes("settings-files", "the settings files of all policies of a set together", 16 * MI)
            .fixed("the record of a generation has to hold them")
            .says("with it the settings files of this host are larger than {limit} bytes together");
        POLICIES = count("policies", "policies in a set", 1000).key("limits.policies", 1, 10_000)
            .says("there are {found} policies; this host takes at most {limit} ({key})");
        DIRECTORY = count("directory", "files in policyDirectory, whether they are policies or not", 32_768)
            .fixed("each of them is looked at whenever something has changed")
            .says("it holds more than {limit} files: give policies a folder of their own");
        MODULE = bytes("module", "a policy's file", 32 * MI).key("limits.module", 64 * KI, 256 * MI)
            .says("the file has {found} bytes, the limit is {limit} ({key})");
        EXTERNS = count("externs", "a component's imports and exports", 1000)
            .fixed("all of WASI 0.2 are 27 imports")
            .says("it has {found} imports and exports, the limit is {limit}");
        FUNCTIONS = count("functions", "functions, of all core modules", 200_000)
            .fixed("CPython has 13,355; prepareTime and prepareMemory bound what they cost")
            .says("it has {found} functions, the limit is {limit}");
        FUNCTION = bytes("function", "one function's body", 2 * MI)
            .fixed("CPython's largest has 417 KiB; compiling takes memory far above the size")
            .says("one of its functions has {found} bytes, the limit is {limit}");
        CORE_MODULES = count("core-modules", "core modules, their aliases among them", 256)
            .fixed("CPython and its libraries are 14")
            .says("it has {found} core modules, the limit is {limit}");
        COMPONENTS = count("components", "nested components, their aliases among them", 256)
            .fixed("toolchains make one for each interface that is exported")
            .says("it has {found} nested components, the limit is {limit}");
        TYPE_DEPTH = count("type-depth", "type declarations within type declarations", 16)
            .fixed("toolchains declare an instance within a component within another; the parsers behind this are recursive")
            .says("its types are nested {found} deep, the limit is {limit}");
        PREPARE_TIME = time("prepare-time", "for compiling, checking and configuring a policy", 120 * SECOND)
            .key("limits.prepareTime", SECOND, 10 * MINUTE)
            .says("preparing it took longer than {limit} ({key})");
        PREPARE_MEMORY = bytes("prepare-memory", "what compiling, checking and configuring a policy needs", GI)
            .key("limits.prepareMemory", 128 * MI, 16 * GI)
            .says("preparing it needs more memory than {limit} bytes ({key})");
        CACHE = bytes("cache", "compiled policies in stateDirectory", GI)
            .key("limits.cache", 16 * MI, 1024 * GI)
            .does("the entries that were not used longest go");
        GENERATIONS = count("generations", "generations recorded in stateDirectory", 32)
            .fixed("a way back that is longer goes through the history of your files")
            .does("the oldest are forgotten, with the components that no other one has");
        RECORD = bytes("record", "the record of a generation in stateDirectory", 32 * MI)
            .fixed("host.yaml has a mebibyte, and is most of it")
            .does("it is written without its problems, and not at all where that is not enough; the log says so");
    }

    "What is told and recorded":
    "What the host keeps of what went wrong. What is over a bound is cut or counted, so that a record can be read back, and \
     a status can be read." {
        PROBLEM = bytes("problem", "words about one problem, in the status, the log and a record", 4 * KI)
            .fixed("people read the first lines of it")
            .does("cut, with `…` at its end; what is in force instead is told all the same");
        PROBLEMS = count("problems", "problems of one look at the files", 256)
            .fixed("people mend the first ones first")
            .does("the rest is counted");
        RECORDED_PROBLEMS = count("recorded-problems", "problems in the record of a generation", 32)
            .fixed("the status has those of now")
            .does("the rest is counted");
        LOAD_ERROR = bytes("load-error", "why a policy of a generation is not loaded", KI)
            .fixed("a denial shows less of it")
            .does("cut, with `…` at its end");
    }

    "Following files":
    "What changed files may cost before they are looked at. Over a bound they are looked at later, or as they are." {
        RELOAD_PAUSE = time("reload-pause", "between two reloads because of changed files", 100)
            .fixed("a first change is followed at once, and a storm of them costs a few loads")
            .does("what changes meanwhile is loaded together");
        WRITE_PAUSE = time("write-pause", "without a byte to a file that someone writes", 10 * SECOND)
            .fixed("whoever writes a policy or host.yaml is not idle in the middle")
            .does("the file is read as it is");
        WRITE_TIME = time("write-time", "for a file to be written", 2 * MINUTE)
            .fixed("the largest policy comes over a slow line in less")
            .does("the file is read as it is, and what is wrong with it is told");
        WRITTEN_FILES = count("written-files", "files that are being written", 10_000)
            .fixed("a set has no more policies")
            .does("further ones are read as they are");
    }

    "The gate":
    "What it may take to judge a candidate before it is in force, where host.yaml has a `gate`. Reviews come first: what is \
     over a bound is left out and counted, but for suites, which have to pass as a whole." {
        REPLAY = count("replay", "the last reviews, which a candidate is tried on", 1000)
            .key("gate.replay", 0, 10_000)
            .does("the oldest are forgotten");
        RECENT_BYTES = bytes("recent-bytes", "the last reviews in memory", 16 * MI)
            .fixed("most reviews take less than 1 KiB")
            .does("the oldest are forgotten");
        REPLAY_FILE = bytes("replay-file", "the end of each file of the decision log, which a replay reads after a restart", 16 * MI)
            .fixed("no more reviews than that are kept in memory")
            .does("lines before it are not read");
        REPLAY_LINES = count("replay-lines", "lines of the decision log that a replay reads, in all files", 50_000)
            .fixed("it is five times the largest `gate.replay`, since some lines hold nothing to judge")
            .does("older lines are not read");
        REPLAY_TIME = time("replay-time", "for a replay to read the decision log", 2 * SECOND)
            .fixed("10,000 usual lines take a tenth of it, and a change waits meanwhile")
            .does("older lines are not read");
        GATE_BUDGET = time("gate-budget", "for a candidate's suites, and for the reviews that it is tried on", 5 * SECOND)
            .key("gate.budget", 100, 5 * MINUTE)
            .says("its suites were not run to their end within {limit} ({key})");
        FIXTURE = bytes("fixture", "a fixture of a suite", MI)
            .fixed("a YAML file takes a hundred times its size in memory, and a review of 256 images is a hundredth of it")
            .says("the fixture has {found} bytes, the limit is {limit}: split it");
        SUITE_DEPTH = count("suite-depth", "folders within folders of a suite", 32)
            .fixed("people sort fixtures by two or three things")
            .says("folders are nested deeper than {limit}: move the fixtures up, or name folders below as suites");
        SUITE_FOLDERS = count("suite-folders", "folders of all suites together", 4096)
            .fixed("each of them is watched")
            .says("the suites have more than {limit} folders: name the folders that hold fixtures instead of one above them");
        SUITE_FILES = count("suite-files", "files in those folders, whether they are fixtures or not", 32_768)
            .fixed("each of them is looked at whenever something has changed")
            .says("the suites' folders hold more than {limit} files: name the folders that hold fixtures instead of one above \
                   them");
        EXAMPLES = count("examples", "examples of one kind of difference", 5)
            .fixed("people read them")
            .does("the rest is counted");
    }

    "A policy in a review":
    "What one instance may use up. Over a bound the call is a malfunction of its policy, which counts by its \
     failurePolicy with the message as the reason, and the next image gets a fresh instance; what can be left out is \
     left out instead." {
        DEADLINE = time("deadline", "for one call", SECOND).key("limits.deadline", 1, 10 * SECOND)
            .says("no answer within its deadline of {limit}");
        MEMORY = bytes("memory", "all linear memories of an instance together", 64 * MI)
            .key("limits.memory", 64 * KI, GI)
            .says("it needs more memory than its limit of {limit} bytes");
        MEMORIES = count("memories", "linear memories of an instance", 16)
            .fixed("a component has one for each language that it is made of")
            .says("it has {found} memories, the limit is {limit}");
        TABLES = count("tables", "tables of an instance", 32)
            .fixed("the largest toolchain needs 3")
            .says("it has {found} tables, the limit is {limit}");
        TABLE_ELEMENTS = count("table-elements", "elements of all tables of an instance together", 100_000)
            .fixed("the largest toolchain, StarlingMonkey, needs 7,687")
            .says("its tables begin with {found} elements, the limit is {limit}");
        CORE_INSTANCES = count("core-instances", "core instances of an instance", 64)
            .fixed("the largest toolchain, Python's, needs 38")
            .says("it has {found} core instances, the limit is {limit}");
        STACK = bytes("stack", "the stack of WebAssembly's calls", 512 * KI)
            .fixed("recursion that needs more is endless; each thread that evaluates has room for it")
            .does("`call stack exhausted`");
        HANDLES = count("handles", "handles to resources of the host", 1000)
            .fixed("inert WASI has a dozen things to hold")
            .does("the call fails, and the message says so with the limit");
        RANDOM_BYTES = bytes("random-bytes", "random bytes asked for at a time", 64 * KI)
            .fixed("they are the same in every instance, and good for seeding a hash table")
            .does("the call fails");
        RESULT = bytes("result", "what is lifted from one result, or for one log line", 256 * KI)
            .key("limits.result", KI, 16 * MI)
            .says("it says more at once than the limit of {limit} bytes ({key})");
        LOG_LINES = count("log-lines", "log lines in a review", 64).key("limits.logLines", 0, 10_000)
            .says("{found} more lines were dropped ({key})");
        LOG_LINE_BYTES = bytes("log-line-bytes", "one log line", KI).key("limits.logLineBytes", 64, 64 * KI)
            .does("cut, with `…` at its end");
    }

    "A decision and the verdict":
    "What of a policy's answer reaches people, the apiserver and its audit log. What is over a bound is cut or left \
     out, and changes no verdict; a code that is none is a malfunction." {
        CODE = bytes("code", "a decision's code, and the key of an annotation", 63)
            .fixed("it is a metric's label; Kubernetes' names are as long")
            .says("code `{found}` is not kebab-case of 1 to {limit} bytes, such as `untrusted-registry`");
        TEXT = bytes("text", "a decision's reason, one of its warnings, annotations or settings errors", KI)
            .fixed("the reason that is shown is no longer")
            .does("cut, with `…` at its end");
        MESSAGE = bytes("message", "the message of an entry of `policies`, escaped", 256)
            .fixed("it has room for a sentence and an address, and leaves the reason of a denial the rest")
            .says("the message has {found} bytes: at most {limit} are allowed");
        LIST = count("list", "a decision's annotations, its warnings, and settings errors", 32)
            .fixed("people read them")
            .does("the rest is left out");
        SAID = bytes("said", "words of all decisions of a review: reasons, annotations, warnings and errors", 16 * MI)
            .fixed("a verdict shows 64 annotations and one reason of them, of 1 KiB each")
            .does("each decision has an equal share, of 256 bytes at least: its reason is cut to it, and the annotations and \
                   warnings that do not fit are left out");
        REASON = bytes("reason", "a verdict's reason", KI)
            .fixed("events and terminals cut longer ones")
            .does("ends in `and N more`");
        REASON_PART = bytes("reason-part", "what one policy gives of it", 640)
            .fixed("with the image before and the policy's name after it that is less than all of the reason")
            .does("cut, with `…` at its end");
        IMAGE_SHOWN = bytes("image-shown", "an image reference in a message", 256)
            .fixed("the registry and the repository's beginning are in it")
            .does("cut, with `…` at its end");
        AUDIT_ANNOTATIONS = count("audit-annotations", "audit annotations of a verdict, besides the host's own", 64)
            .fixed("they are for the audit log, which keeps every one")
            .does("the last in order are left out");
        AUDIT_KEY = bytes("audit-key", "an audit annotation's key", 63)
            .fixed("Kubernetes takes no longer one (IsQualifiedName)")
            .does("cut");
        AUDIT_VALUE = bytes("audit-value", "an audit annotation's value, for all images", KI)
            .fixed("it is for the audit log, which keeps every one")
            .does("ends in `and N more`, or in `…`");
    }

    "Manifests":
    "What `host review -f` reads. Over a limit it exits with 2 and says so, after the verdicts on what it has read." {
        MANIFEST_FILE = bytes("manifest-file", "a file given to `host review -f`", 16 * MI)
            .fixed("the largest charts render to some hundred KiB")
            .does("the file counts as broken, and none of it is judged");
        MANIFEST_DOCUMENTS = count("manifest-documents", "documents in a file given to `host review -f`", 10_000)
            .fixed("the largest charts render to some hundred")
            .says("it holds more than {limit} documents: give its parts one by one");
    }

    "Seen from outside":
    "What the host tells of itself. Over a bound something is not told, and it is told how much; no review waits for \
     any of it." {
        CODES = count("codes", "codes of a policy that metrics tell apart, each with its outcome", 32)
            .fixed("a policy has a handful; each is a series that a scraper keeps for ever")
            .does("counted with the code `other`");
        LINES = count("lines", "lines of one kind a second, of those that others can cause", 200)
            .fixed("people read them, and the decision log has every review")
            .does("left out, and a line says how many were");
        LOG_BUFFER = count("log-buffer", "lines of the log that wait to be written", 4096)
            .fixed("whoever reads the log is behind by more than he can want to know")
            .does("lost, and counted");
        DECISION_LOG_QUEUE = count("decision-log-queue", "lines that wait to be written to the decision log", 4096)
            .key("decisionLog.queue", 16, 65_536)
            .does("further ones are dropped, and counted");
        DECISION_LOG_MEMORY = bytes("decision-log-memory", "those lines together", 32 * MI)
            .fixed("it is 32 of the largest lines, or a minute of usual ones")
            .does("further ones are dropped, and counted");
        DECISION_LOG_LINE = bytes("decision-log-line", "a line of the decision log", MI)
            .fixed("a usual one has less than 1 KiB")
            .does("the line leaves out what the policies said, or what was asked, and says so");
        DECISION_LOG_FILE = bytes("decision-log-file", "a file of the decision log", 64 * MI)
            .key("decisionLog.fileSize", MI, GI)
            .does("a new file is begun");
        DECISION_LOG_FILES = count("decision-log-files", "files of the decision log", 8)
            .key("decisionLog.files", 2, 1000)
            .does("the oldest is removed");
    }
}

/// A row without its last two columns.
struct Row(&'static str, &'static str, Unit, u64);

/// A row without its last column.
struct SetRow(Row, Set);

const fn bytes(name: &'static str, what: &'static str, default: u64) -> Row {
    Row(name, what, Unit::Bytes, default)
}

const fn count(name: &'static str, what: &'static str, default: u64) -> Row {
    Row(name, what, Unit::Count, default)
}

const fn time(name: &'static str, what: &'static str, default: u64) -> Row {
    Row(name, what, Unit::Time, default)
}

impl Row {
    const fn key(self, key: &'static str, least: u64, most: u64) -> SetRow {
        SetRow(self, Set::Key { key, least, most })
    }

    const fn fixed(self, why: &'static str) -> SetRow {
        SetRow(self, Set::Fixed(why))
    }
}

impl SetRow {
    const fn says(self, message: &'static str) -> Bound {
        self.over(Over::Says(message))
    }

    const fn does(self, what: &'static str) -> Bound {
        self.over(Over::Does(what))
    }

    const fn over(self, over: Over) -> Bound {
        let SetRow(Row(name, what, unit, default), set) = self;
        Bound { name, what, unit, default, set, over }
    }
}

impl Bound {
    /// Returns the default as a size in memory.
    pub(crate) const fn size(&self) -> usize {
        // The host is built for 64-bit machines. On others the cast would truncate `default`, which only
        // makes the limit smaller.
        self.default as usize
    }

    /// Returns the default as a duration.
    pub(crate) const fn time(&self) -> Duration {
        Duration::from_millis(self.default)
    }

    /// Returns the message for a quantity `found` over `limit`.
    pub(crate) fn says(&self, found: impl Display, limit: u64) -> String {
        self.message(&found.to_string(), &limit.to_string())
    }

    /// Returns the message for an operation that took longer than `limit`.
    pub(crate) fn says_of(&self, limit: Duration) -> String {
        self.message("", &humantime::format_duration(limit).to_string())
    }

    fn message(&self, found: &str, limit: &str) -> String {
        let (Over::Says(text) | Over::Does(text)) = self.over;
        let text = text.replace("{limit}", limit).replace("{key}", self.key().unwrap_or_default());
        // `{found}` is replaced last, since its text may come from a guest.
        text.replace("{found}", found)
    }

    /// Returns the maximum, whatever value host.yaml sets.
    pub(crate) const fn most(&self) -> u64 {
        match self.set {
            Set::Key { most, .. } => most,
            Set::Fixed(_) => self.default,
        }
    }

    /// Returns the key of host.yaml that changes the limit. Returns None if the limit is fixed.
    pub fn key(&self) -> Option<&'static str> {
        match self.set {
            Set::Key { key, .. } => Some(key),
            Set::Fixed(_) => None,
        }
    }

    /// Returns `number` in the limit's unit, as host.yaml writes it.
    pub fn show(&self, number: u64) -> String {
        match self.unit {
            Unit::Count => number.to_string(),
            Unit::Bytes => show_bytes(number),
            Unit::Time if number.is_multiple_of(MINUTE) => format!("{}m", number / MINUTE),
            Unit::Time => format!("{:?}", Duration::from_millis(number)),
        }
    }

    fn show_default(&self) -> String {
        match self.default {
            0 => "processors".to_owned(),
            default => self.show(default),
        }
    }
}

/// Returns the shortest notation of a number of bytes with a binary suffix.
pub(crate) fn show_bytes(bytes: u64) -> String {
    let suffixes = [("Gi", GI), ("Mi", MI), ("Ki", KI)];
    let binary = suffixes.iter().find(|(_, scale)| bytes > 0 && bytes.is_multiple_of(*scale));
    binary.map_or_else(|| bytes.to_string(), |(suffix, scale)| format!("{}{suffix}", bytes / scale))
}
