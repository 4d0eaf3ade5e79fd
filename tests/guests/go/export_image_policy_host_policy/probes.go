package export_image_policy_host_policy

// What the conformance suite asks of every guest, by the image's repository. A policy of yours has no such file.

import (
	"crypto/rand"
	"fmt"
	"os"
	"time"

	wit "go.bytecodealliance.org/pkg/wit/types"
	host "wit_component/image_policy_host_types"
)

var asked int

func probe(image host.Image) *wit.Result[host.Decision, string] {
	asked++
	var answer wit.Result[host.Decision, string]
	switch image.Repository {
	case "fault/throw":
		panic("thrown on purpose")
	case "fault/error":
		answer = wit.Err[host.Decision]("reported on purpose")
	case "fault/spin":
		for {
		}
	case "fault/hog":
		for hoard := [][]byte{}; ; {
			hoard = append(hoard, make([]byte, 1<<20))
		}
	case "probe/state":
		answer = decision(host.Outcome_Allow, "probe", fmt.Sprintf("asked %d times", asked))
	case "probe/wasi":
		random := make([]byte, 4)
		rand.Read(random)
		answer = decision(host.Outcome_Allow, "probe", fmt.Sprintf("arguments %d, environment %d, %s, time %d, random %x",
			len(os.Args), len(os.Environ()), files(), time.Now().Unix(), random))
	case "probe/wait":
		time.Sleep(time.Minute)
		answer = decision(host.Outcome_Allow, "probe", "waited")
	default:
		return nil
	}
	return &answer
}

func files() string {
	found, err := os.ReadDir("/")
	if err != nil {
		return "no files"
	}
	return fmt.Sprintf("files %d", len(found))
}
