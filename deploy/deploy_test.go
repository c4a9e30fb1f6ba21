// Package deploy_test holds the files of this folder to the program: every
// variable they set is one that it reads, every command one that it has.
package deploy_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/perdure/perdure/internal/config"
)

func TestComposeNamesWhatTheProgramKnows(t *testing.T) {
	text, err := os.ReadFile("compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var compose struct {
		Services map[string]struct {
			Command     []string
			Environment map[string]string
			Secrets     []string
			Build       *struct{ Dockerfile string }
		}
		Secrets map[string]any
	}
	// A merged key that is written again overrides: compose reads it so.
	if err := yaml.UnmarshalWithOptions(text, &compose, yaml.AllowDuplicateMapKey()); err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, v := range (config.Config{}).Describe() {
		known[v.Name] = true
	}
	roles := 0
	for name, s := range compose.Services {
		for _, secret := range s.Secrets {
			if _, ok := compose.Secrets[secret]; !ok {
				t.Errorf("service %s uses secret %s, which is not declared", name, secret)
			}
		}
		if s.Build == nil {
			continue // somebody else's image
		}
		roles++
		if _, err := os.Stat("../" + s.Build.Dockerfile); err != nil {
			t.Errorf("service %s: %v", name, err)
		}
		if _, err := os.Stat("../cmd/perdure/" + s.Command[0] + ".go"); err != nil {
			t.Errorf("service %s runs `perdure %s`, which does not exist", name, strings.Join(s.Command, " "))
		}
		for variable := range s.Environment {
			if !known[strings.TrimSuffix(variable, "_FILE")] && !known[variable] {
				t.Errorf("service %s sets %s, which nothing reads", name, variable)
			}
		}
	}
	if roles != 5 {
		t.Errorf("%d services run Perdure, want migrate, dispatcher, relay, worker, replayer", roles)
	}
}

// The scaling answer's field and route are contracts with KEDA's metrics-api.
func TestKEDAReadsTheScalingSignal(t *testing.T) {
	text, err := os.ReadFile("keda.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var object struct {
		Spec struct {
			Triggers []struct {
				Type     string
				Metadata map[string]string
			}
		}
	}
	first, _, _ := strings.Cut(string(text), "\n---\n")
	if err := yaml.Unmarshal([]byte(first), &object); err != nil {
		t.Fatal(err)
	}
	if len(object.Spec.Triggers) != 1 || object.Spec.Triggers[0].Type != "metrics-api" {
		t.Fatalf("triggers: %+v", object.Spec.Triggers)
	}
	m := object.Spec.Triggers[0].Metadata
	if m["valueLocation"] != "desired_workers" || m["targetValue"] != "1" {
		t.Errorf("metadata: %v", m)
	}
	if !regexp.MustCompile(`/v1/queues/[a-z0-9-]+/scaling$`).MatchString(m["url"]) {
		t.Errorf("url: %q", m["url"])
	}
}
