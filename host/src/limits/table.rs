//! The rows of the table, in groups.

use super::{GI, KI, Limit, LimitGroup, MI, MINUTE, SECOND, bytes, count, time};

macro_rules! limits {
    ($($title:literal: $on_exceed:literal { $($name:ident = $row:expr;)* })*) => {
        $($(pub(crate) const $name: Limit = $row;)*)*

        /// All rows, in groups.
        pub const ALL: &[LimitGroup] = &[
            $(LimitGroup { title: $title, on_exceed: $on_exceed, limits: &[$($row),*] }),*
        ];
    };
}

limits! {
    "A review":
    "Limits of what an apiserver sends. A review over a limit is denied (HTTP 200, `allowed: false`) with \
     the message as its reason. Only a full queue results in status 429, which the apiserver retries." {
        BODY = bytes("body", "the body of a request", 4 * MI)
            .key("limits.body", 64 * KI, 64 * MI)
            .message("the request's body is over {limit} bytes, the most that this host reads ({key})");
        BODY_DRAIN = bytes(
            "body-drain",
            "the part of a body over its limit that is read, so that the client sees the response",
            64 * MI,
        )
            .fixed("such a request is refused in any case")
            .effect("the connection is closed with the response, even if the client still sends");
        BODY_TIME = time("body-time", "time in which the body of a request must arrive", 10 * SECOND)
            .fixed("the apiserver sends a body at once, and gives up after 30 s")
            .message("the request's body did not arrive within {limit}");
        IMAGES = count("images", "images of a review", 256)
            .key("limits.images", 1, 10_000)
            .message("the review has {found} images; this host takes at most {limit} ({key})");
        ANNOTATIONS = bytes("annotations", "annotations of a review, keys and values", 256 * KI)
            .key("limits.annotations", KI, MI)
            .message("the review's annotations hold {found} bytes; this host takes at most {limit} ({key})");
        NAMESPACE = bytes("namespace", "namespace of a review", 63)
            .fixed("Kubernetes' namespaces are DNS labels (RFC 1123), and no label is longer")
            .message("the review's namespace has {found} bytes, and Kubernetes allows a namespace at most \
                      {limit}: see what sends such a request");
        REFERENCE = bytes("reference", "an image reference", image_reference::MAX_REFERENCE as u64)
            .fixed("every valid reference is shorter than 1024 bytes")
            .message("the image reference has {found} bytes: at most {limit} are allowed");
        REVIEW_DEADLINE = time(
            "review-deadline",
            "time of all policies of a review, with the wait before",
            10 * SECOND,
        )
            .key("limits.reviewDeadline", 10, 25 * SECOND)
            .message("the review took longer than its budget of {limit} ({key})");
        CONCURRENT_REVIEWS = count(
            "concurrent-reviews",
            "reviews evaluated at once on threads of their own (those over 0.3 ms); slow ones (over 50 ms) \
                leave one place to the others, unless there is only one",
            0,
        )
            .key("limits.concurrentReviews", 1, 64).effect("the review waits in the queue");
        QUEUE = count(
            "queue",
            "reviews that wait in each of the two lanes; in a full queue, a client with fewer replaces one \
                of the client with the most",
            1024,
        )
            .key("limits.queue", 0, 65_536).message("this image policy host has too many reviews waiting");
    }

    "A connection":
    "Limits of what anyone who reaches a port can use up. Over a limit the connection waits or is closed. \
     The log says so where that is of use." {
        CONNECTIONS = count("connections", "connections that the webhook serves", 1024)
            .key("limits.connections", 1, 65_536)
            .effect("the client with the most connections loses one, if the new client has fewer; otherwise \
                     the new connection waits until another ends");
        ADMIN_CONNECTIONS = count("admin-connections", "connections that the admin listener serves", 64)
            .fixed("its clients are a few probes and one scraper, each for an instant")
            .message("admin listener: all {limit} connections are taken, so the one that was idle longest is \
                      closed (`ss -tnp` shows whose they are)");
        ENTERING = count("entering", "connections in their handshake, or waiting for a free slot", 256)
            .fixed("a working client completes its handshake in an instant")
            .effect("a connection of the address with the most is closed: the oldest of those at the step of \
                     the handshake at which most of them are");
        HANDSHAKE_TIME = time("handshake-time", "time of a TLS handshake", 10 * SECOND)
            .fixed("Go's clients wait as long (net/http, TLSHandshakeTimeout)")
            .message("TLS handshake refused: it took longer than {limit}");
        HEADERS_TIME = time(
            "headers-time",
            "time from the first byte of a request to the end of its headers, on HTTP/1.1",
            10 * SECOND,
        )
            .fixed("a client sends them at once").effect("the connection is closed");
        STALL_TIME = time(
            "stall-time",
            "time without progress of a response, in bytes and in HTTP/2's windows",
            20 * SECOND,
        )
            .fixed("a network may be down for as long").effect("the connection is closed");
        IDLE_TIME = time("idle-time", "time without a request on a connection", 180 * SECOND)
            .fixed("it must be longer than the 90 s after which the apiserver closes (net/http, \
                    IdleConnTimeout)")
            .effect("the connection is closed");
        STREAMS = count("streams", "concurrent requests of one HTTP/2 connection", 256)
            .fixed("a client with more requests waits, as HTTP/2 specifies")
            .effect("the stream is refused (REFUSED_STREAM); clients retry");
        RESETS = count("resets", "streams that a client has reset before the host processed them", 20)
            .fixed("only an attack resets new streams again and again (CVE-2023-44487)")
            .effect("the connection is closed (ENHANCE_YOUR_CALM)");
        STREAM_ERRORS = count(
            "stream-errors",
            "streams that the host had to reset, because they broke the protocol",
            64,
        )
            .fixed("a working client causes none").effect("the connection is closed (ENHANCE_YOUR_CALM)");
        UNDER_WAY = bytes(
            "under-way",
            "memory of all requests in progress: their headers, the received parts of their bodies, and \
             responses that are not yet sent; one client gets at most as much as it leaves free",
            256 * MI,
        )
            .fixed("an apiserver has at most some hundred requests in progress (--max-requests-inflight)")
            .message("this image policy host has too many requests under way");
        HEADERS = bytes("headers", "request line and headers", 64 * KI)
            .fixed("an apiserver's are less than 1 KiB").effect("HTTP 431");
        FAREWELL_TIME = time(
            "farewell-time",
            "time in which a client must close a connection that is shut down",
            2 * SECOND,
        )
            .fixed("a client needs a moment to learn of the shutdown; after that its requests are refused")
            .effect("requests are refused (REFUSED_STREAM), and the connection is closed after the pending \
                     responses");
        LINGER = time(
            "linger",
            "time for which idle connections are kept when the host shuts down",
            2 * SECOND,
        )
            .fixed("active connections get their last response meanwhile, and the others are unlikely to get \
                    a request at the moment of closing")
            .effect("the connection is closed");
        RETIRE_TIME = time(
            "retire-time",
            "time for which an idle HTTP/1.1 connection from before a change of certificates is kept",
            100 * SECOND,
        )
            .fixed("it must be longer than the 90 s after which the apiserver closes it itself")
            .effect("the connection is closed");
        STOP_TIME = time("stop-time", "time for the reviews that are still in progress then", 20 * SECOND)
            .fixed("with the time for idle connections it is less than the 30 s after which kubelet kills")
            .message("stopped, but some reviews took too long to be finished");
    }

    "Certificates":
    "Limits of the files of `tls`. Files over a limit are refused, and the previous ones stay in force. Too \
     many names only shorten the handshake." {
        TLS_FILE = bytes("tls-file", "a file of certificates, or a private key", MI)
            .fixed("a bundle of all public authorities has 220 KiB")
            .message("larger than {limit} bytes: no file of certificates needs that");
        SERVING_CHAIN = bytes("serving-chain", "the serving certificate with its chain", 32 * KI)
            .fixed("a chain of five has 10 KiB, and some clients read at most 64 KiB in a handshake")
            .message("its certificates have {found} bytes, and clients read no more than {limit} for \
                      certain: keep the serving certificate and those between it and the authority");
        AUTHORITIES_OF_A_NAME = count("authorities-of-a-name", "client authorities with the same name", 32)
            .fixed("a client's chain is tried with each of them; there are two while one replaces the other")
            .message("{found} of its authorities have the same name, at most {limit} may: remove those that \
                      sign no clients");
        AUTHORITY_NAMES = bytes("authority-names", "names of client authorities in a handshake", 16 * KI)
            .fixed("a handshake holds less than 64 KiB of them, and clients need no names")
            .effect("the handshake names none, and clients choose their certificate by themselves");
    }

    "The control socket":
    "Limits of the host's own user, who alone can open the socket. Over a limit the request is refused, and \
     the host continues to serve." {
        CONTROL_CONNECTIONS = count("control-connections", "requests in progress on the control socket", 8)
            .fixed("people use it, one command at a time")
            .message("{limit} requests are under way on this host's control socket: ask again in a moment");
        CONTROL_REQUEST = bytes("control-request", "a request on the control socket", 4 * KI)
            .fixed("a request names at most a digest").message("the request has more than {limit} bytes");
        CONTROL_TIME = time(
            "control-time",
            "time in which a request must arrive on the control socket, and its response be read",
            5 * SECOND,
        )
            .fixed("both are on this machine").effect("the connection is closed");
    }

    "Loading a policy":
    "Limits of a file before it is in force. A file over a limit is not loaded: the version before it stays \
     in force. The log, `/status` and `/readyz?verbose` have the message." {
        CONFIGURATION = bytes("configuration", "host.yaml", MI)
            .fixed("a configuration of 1,000 policies is a tenth of it")
            .message("larger than {limit} bytes");
        SETTINGS_FILE = bytes("settings-file", "settings of a policy in a file of their own", 4 * MI)
            .fixed("the longest lists, of 25,000 patterns, have 1.3 MiB, and a ConfigMap has 1 MiB at most")
            .message("larger than {limit} bytes");
        SETTINGS_FILES = bytes("settings-files", "settings files of all policies of a set together", 16 * MI)
            .fixed("the record of a generation has to hold them")
            .message("with it the settings files of this host are larger than {limit} bytes together");
        SETTINGS_TEXT = bytes("settings-text", "a file of `settingsFiles`", MI)
            .fixed("a ConfigMap has 1 MiB at most")
            .message("larger than {limit} bytes");
        SETTINGS_TEXTS = count("settings-texts", "files of `settingsFiles` of all policies together", 4096)
            .fixed("each of them is checked after every change")
            .message("with it there are more than {limit} files of `settingsFiles`");
        POLICIES = count("policies", "policies in a set", 1000)
            .key("limits.policies", 1, 10_000)
            .message("there are {found} policies; this host takes at most {limit} ({key})");
        DIRECTORY = count("directory", "files in policyDirectory, policies or not", 32_768)
            .fixed("each of them is checked after every change")
            .message("it holds more than {limit} files: give policies a folder of their own");
        MODULE = bytes("module", "the file of a policy", 32 * MI)
            .key("limits.module", 64 * KI, 256 * MI)
            .message("the file has {found} bytes, the limit is {limit} ({key})");
        EXTERNS = count("externs", "imports and exports of a component", 1000)
            .fixed("all of WASI 0.2 are 27 imports")
            .message("it has {found} imports and exports, the limit is {limit}");
        FUNCTIONS = count("functions", "functions of all core modules", 200_000)
            .fixed("CPython has 13,355; prepareTime and prepareMemory limit their cost")
            .message("it has {found} functions, the limit is {limit}");
        FUNCTION = bytes("function", "the body of one function", 2 * MI)
            .fixed("CPython's largest has 417 KiB; compiling takes memory far above the size")
            .message("one of its functions has {found} bytes, the limit is {limit}");
        CORE_MODULES = count("core-modules", "core modules, including their aliases", 256)
            .fixed("CPython and its libraries are 14")
            .message("it has {found} core modules, the limit is {limit}");
        COMPONENTS = count("components", "nested components, including their aliases", 256)
            .fixed("toolchains make one for each exported interface")
            .message("it has {found} nested components, the limit is {limit}");
        TYPE_DEPTH = count("type-depth", "type declarations within type declarations", 16)
            .fixed("toolchains declare an instance within a component within another; the parsers are \
                    recursive")
            .message("its types are nested {found} deep, the limit is {limit}");
        PREPARE_TIME = time("prepare-time", "time to compile, check and configure a policy", 120 * SECOND)
            .key("limits.prepareTime", SECOND, 10 * MINUTE)
            .message("preparing it took longer than {limit} ({key})");
        PREPARE_MEMORY = bytes("prepare-memory", "memory to compile, check and configure a policy", GI)
            .key("limits.prepareMemory", 128 * MI, 16 * GI)
            .message("preparing it needs more memory than {limit} bytes ({key})");
        CACHE = bytes("cache", "compiled policies in stateDirectory", GI)
            .key("limits.cache", 16 * MI, 1024 * GI)
            .effect("the entries unused for the longest time are removed");
        FUNCTION_CACHE = bytes(
            "function-cache",
            "compiled functions in the user's cache folder, for components that `host test` compiles again",
            512 * MI,
        )
            .fixed("those of a policy in Python have 27 MB")
            .effect("those unused for the longest time are removed");
        SOURCE_FILES = count("source-files", "files and folders of the sources of a policy", 4096)
            .fixed("each of them is watched")
            .message("the sources have more than {limit} files and folders, or are nested too deep: name a \
                      folder that holds one policy");
        GENERATIONS = count("generations", "generations recorded in stateDirectory", 32)
            .fixed("the history of your files has older ones")
            .effect("the oldest are removed, with the components that no other one has");
        RECORD = bytes("record", "the record of a generation in stateDirectory", 32 * MI)
            .fixed("host.yaml has a mebibyte, and is most of it")
            .effect("it is written without its problems, or not at all if that is not enough; the log says \
                     so");
    }

    "Problems and records":
    "Limits of what the host keeps of errors. Text over a limit is cut, and further problems are counted, so \
     that a record can be read back and a status can be read." {
        PROBLEM = bytes("problem", "text of one problem, in the status, the log and a record", 4 * KI)
            .fixed("people read its first lines")
            .effect("cut, with `…` at its end; the version in force instead is named in any case");
        PROBLEMS = count("problems", "problems of one reload", 256)
            .fixed("people correct the first ones first").effect("the rest is counted");
        RECORDED_PROBLEMS = count("recorded-problems", "problems in the record of a generation", 32)
            .fixed("the status has the current ones").effect("the rest is counted");
        LOAD_ERROR = bytes("load-error", "the reason why a policy of a generation is not loaded", KI)
            .fixed("a denial shows less of it").effect("cut, with `…` at its end");
    }

    "Following files":
    "Limits of changes of files before they are loaded. Over a limit they are loaded later, or as they are." {
        RELOAD_PAUSE = time("reload-pause", "time between two reloads because of changed files", 100)
            .fixed("a first change is loaded at once, and many changes cost a few loads")
            .effect("the changes of that time are loaded together");
        WRITE_PAUSE = time(
            "write-pause",
            "time without a write to a file that a process has open for writing",
            10 * SECOND,
        )
            .fixed("no process pauses for so long in the middle of a policy or of host.yaml")
            .effect("the file is read as it is");
        WRITE_TIME = time("write-time", "time in which a file must be written", 2 * MINUTE)
            .fixed("the largest policy comes over a slow line in less")
            .effect("the file is read as it is, and its problems are reported");
        WRITTEN_FILES = count("written-files", "files that are being written", 10_000)
            .fixed("a set has no more policies").effect("further ones are read as they are");
        FILE_EVENTS = count("file-events", "events of changed files that wait for the reload", 16_384)
            .fixed("as many as the kernel keeps, and the reload takes all of them at once")
            .effect("they are dropped, and the reload compares all files");
    }

    "The gate":
    "Limits of the checks of a candidate before it is in force, where host.yaml has a `gate`. Reviews come \
     first: checks over a limit are left out and counted. Suites are the exception, since they have to pass \
     as a whole." {
        REPLAY = count("replay", "recent reviews that a candidate evaluates", 1000)
            .key("gate.replay", 0, 10_000).effect("the oldest are removed");
        RECENT_BYTES = bytes("recent-bytes", "recent reviews in memory", 16 * MI)
            .fixed("most reviews take less than 1 KiB").effect("the oldest are removed");
        REPLAY_FILE = bytes(
            "replay-file",
            "the end of each file of the decision log, which a replay reads after a restart",
            16 * MI,
        )
            .fixed("no more reviews than that are kept in memory").effect("lines before it are not read");
        REPLAY_LINES = count(
            "replay-lines",
            "lines of the decision log that a replay reads, in all files",
            50_000,
        )
            .fixed("it is five times the largest `gate.replay`, since some lines hold nothing to judge")
            .effect("older lines are not read");
        REPLAY_TIME = time("replay-time", "time in which a replay reads the decision log", 2 * SECOND)
            .fixed("10,000 usual lines take a tenth of it, and a change waits meanwhile")
            .effect("older lines are not read");
        GATE_BUDGET = time("gate-budget", "time of a candidate's suites, and time of its replay", 5 * SECOND)
            .key("gate.budget", 100, 5 * MINUTE)
            .message("its suites were not run to their end within {limit} ({key})");
        FIXTURE = bytes("fixture", "a file of a suite", MI)
            .fixed("a YAML file takes a hundred times its size in memory, and a review of 256 images is a \
                    hundredth of it")
            .message("the file has {found} bytes, the limit is {limit}: split it, or move it to a folder \
                      without suites if it is no case");
        SUITE_DEPTH = count("suite-depth", "folders within folders of a suite", 32)
            .fixed("people sort fixtures by two or three properties")
            .message("folders are nested deeper than {limit}: move the fixtures up, or name folders below as \
                      suites");
        SUITE_FOLDERS = count("suite-folders", "folders of all suites together", 4096)
            .fixed("each of them is watched")
            .message("the suites have more than {limit} folders: name the folders that hold fixtures instead \
                      of one above them");
        SUITE_FILES = count("suite-files", "files in those folders, fixtures or not", 32_768)
            .fixed("each of them is checked after every change")
            .message("the suites' folders hold more than {limit} files: name the folders that hold fixtures \
                      instead of one above them");
        LAST_RUN = bytes("last-run", "the failed cases of a suite's last run, in the user's cache folder", MI)
            .fixed("it holds ten thousand names").effect("they are not kept, and `--failed` finds none");
        EXPRESSIONS = count("expressions", "regular expressions in an expectation", 64)
            .fixed("a case expects a handful of texts, and each expression is compiled for each run")
            .message("an expectation has at most {limit} regular expressions: split the case");
        EXPRESSION_SIZE = bytes("expression-size", "a regular expression of an expectation, compiled", MI)
            .fixed("the time of a match grows with it; repetitions such as `\\w{1000}` make it large")
            .message("it needs more than {limit} bytes when compiled: shorten its repetitions");
        COVERAGE_SETTINGS = count(
            "coverage-settings",
            "entries of the settings under one configuration that `host test --coverage` changes",
            4096,
        )
            .fixed("each is configured a few times, and the cases run again")
            .message("the settings have {found} entries, of which only {limit} were changed: test long \
                      lists in a suite of their own");
        EXAMPLES = count("examples", "examples of one kind of difference", 5)
            .fixed("people read them").effect("the rest is counted");
        REPLAY_EXAMPLES = count("replay-examples", "examples of a kind of `host test --replay -v`", 1000)
            .fixed("people search them with other tools").effect("the rest is counted");
        REPLAY_BATCH = bytes("replay-batch", "distinct reviews that `--replay` holds in memory", 16 * MI)
            .fixed("most reviews take less than 1 KiB")
            .effect("they are judged before more lines are read");
    }

    "A policy in a review":
    "Limits of one instance. A call over a limit is a malfunction of its policy, which counts by its \
     failurePolicy with the message as the reason, and the next image gets a fresh instance. Where the \
     result has a part that can be left out, that part is left out instead." {
        DEADLINE = time("deadline", "time of one call", SECOND)
            .key("limits.deadline", 1, 10 * SECOND).message("no answer within its deadline of {limit}");
        MEMORY = bytes("memory", "all linear memories of an instance together", 64 * MI)
            .key("limits.memory", 64 * KI, GI)
            .message("it needs more memory than its limit of {limit} bytes");
        MEMORIES = count("memories", "linear memories of an instance", 16)
            .fixed("a component has one for each of its languages")
            .message("it has {found} memories, the limit is {limit}");
        TABLES = count("tables", "tables of an instance", 32)
            .fixed("the largest toolchain needs 3").message("it has {found} tables, the limit is {limit}");
        TABLE_ELEMENTS = count("table-elements", "elements of all tables of an instance together", 100_000)
            .fixed("the largest toolchain, StarlingMonkey, needs 7,687")
            .message("its tables begin with {found} elements, the limit is {limit}");
        CORE_INSTANCES = count("core-instances", "core instances of an instance", 64)
            .fixed("the largest toolchain, Python's, needs 38")
            .message("it has {found} core instances, the limit is {limit}");
        STACK = bytes("stack", "the stack of WebAssembly's calls", 512 * KI)
            .fixed("recursion that needs more is endless; each thread that evaluates has room for it")
            .effect("`call stack exhausted`");
        HANDLES = count("handles", "handles to resources of the host", 1000)
            .fixed("inert WASI has a dozen resources")
            .effect("the call fails, and the message has the limit");
        RANDOM_BYTES = bytes("random-bytes", "random bytes of one call", 64 * KI)
            .fixed("they are the same in every instance, and good for seeding a hash table")
            .effect("the call fails");
        RESULT = bytes("result", "data lifted from one result, or for one log line", 256 * KI)
            .key("limits.result", KI, 16 * MI)
            .message("it says more at once than the limit of {limit} bytes ({key})");
        LOG_LINES = count("log-lines", "log lines in a review", 64)
            .key("limits.logLines", 0, 10_000).message("{found} more lines were dropped ({key})");
        LOG_LINE_BYTES = bytes("log-line-bytes", "one log line", KI)
            .key("limits.logLineBytes", 64, 64 * KI).effect("cut, with `…` at its end");
    }

    "A decision and the verdict":
    "Limits of the parts of a policy's decision that reach people, the apiserver and its audit log. Text \
     over a limit is cut or left out, and no verdict changes. An invalid code is a malfunction." {
        CODE = bytes("code", "the code of a decision, and the key of an annotation", 63)
            .fixed("it is a metric's label; Kubernetes' names are as long")
            .message("code `{found}` is not kebab-case of 1 to {limit} bytes, such as `untrusted-registry`");
        TEXT = bytes(
            "text",
            "the reason of a decision, one of its warnings, annotations or settings errors",
            KI,
        )
            .fixed("a verdict shows no more of a reason")
            .effect("cut, with `…` at its end");
        MESSAGE = bytes("message", "the message of an entry of `policies`, escaped", 256)
            .fixed("it has room for a sentence and an address, and leaves the reason of a denial the rest")
            .message("the message has {found} bytes: at most {limit} are allowed");
        LIST = count("list", "annotations of a decision, its warnings, and settings errors", 32)
            .fixed("people read them")
            .effect("the rest is left out");
        SAID = bytes(
            "said",
            "text of all decisions of a review: reasons, annotations, warnings and errors",
            16 * MI,
        )
            .fixed("a verdict shows 64 annotations and one reason of them, of 1 KiB each")
            .effect("each decision has an equal share, of 256 bytes at least: its reason is cut to the \
                     share, and the annotations and warnings that do not fit are left out");
        REASON = bytes("reason", "the reason of a verdict", KI)
            .fixed("events and terminals cut longer ones")
            .effect("ends in `and N more`");
        REASON_PART = bytes("reason-part", "the part of it that comes from one policy", 640)
            .fixed("with the image before and the policy's name after it that is less than the whole reason")
            .effect("cut, with `…` at its end");
        IMAGE_SHOWN = bytes("image-shown", "an image reference in a message", 256)
            .fixed("it shows the registry and the beginning of the repository")
            .effect("cut, with `…` at its end");
        AUDIT_ANNOTATIONS = count(
            "audit-annotations",
            "audit annotations of a verdict, besides the host's own",
            64,
        )
            .fixed("they are for the audit log, which keeps every one")
            .effect("the last in order are left out");
        AUDIT_KEY = bytes("audit-key", "the key of an audit annotation", 63)
            .fixed("Kubernetes takes no longer one (IsQualifiedName)")
            .effect("cut");
        AUDIT_VALUE = bytes("audit-value", "the value of an audit annotation, for all images", KI)
            .fixed("it is for the audit log, which keeps every one")
            .effect("ends in `and N more`, or in `…`");
    }

    "Manifests":
    "Limits of `host review -f`. Over a limit it exits with 2 and says so, after the verdicts on what it has \
     read." {
        MANIFEST_FILE = bytes("manifest-file", "a file for `host review -f`", 16 * MI)
            .fixed("the largest charts render to some hundred KiB")
            .effect("the file counts as broken, and none of it is judged");
        MANIFEST_DOCUMENTS = count("manifest-documents", "documents in a file for `host review -f`", 10_000)
            .fixed("the largest charts render to some hundred")
            .message("it holds more than {limit} documents: give its parts one by one");
    }

    "Seen from outside":
    "Limits of what the host reports. Data over a limit is left out and counted, and no review waits for \
     it." {
        CODES = count("codes", "codes of a policy that metrics distinguish, each with its outcome", 32)
            .fixed("a policy has a handful; each is a series that a scraper keeps for ever")
            .effect("counted with the code `other`");
        LINES = count("lines", "log lines of one kind in a second, if others can cause them", 200)
            .fixed("people read them, and the decision log has every review")
            .effect("left out, and a line has their number");
        LOG_BUFFER = count("log-buffer", "lines of the log that wait to be written", 4096)
            .fixed("a reader this far behind has lost the thread")
            .effect("lost, and counted");
        DECISION_LOG_QUEUE = count(
            "decision-log-queue",
            "lines that wait to be written to the decision log",
            4096,
        )
            .key("decisionLog.queue", 16, 65_536)
            .effect("further ones are dropped, and counted");
        DECISION_LOG_MEMORY = bytes("decision-log-memory", "memory of these lines", 32 * MI)
            .fixed("it is 32 of the largest lines, or a minute of usual ones")
            .effect("further ones are dropped, and counted");
        DECISION_LOG_LINE = bytes("decision-log-line", "a line of the decision log", MI)
            .fixed("a usual one has less than 1 KiB")
            .effect("the line leaves out the policies' results, or the review, and says so");
        DECISION_LOG_FILE = bytes("decision-log-file", "a file of the decision log", 64 * MI)
            .key("decisionLog.fileSize", MI, GI)
            .effect("a new file is begun");
        DECISION_LOG_FILES = count("decision-log-files", "files of the decision log", 8)
            .key("decisionLog.files", 2, 1000)
            .effect("the oldest is removed");
    }
}
