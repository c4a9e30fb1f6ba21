package main

// `perdure dlq try`: one production letter against an endpoint on a laptop.

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/trial"
)

// tried is what a trial came to.
type tried struct {
	Letter string `json:"letter"`
	URL    string `json:"url"`
	trial.Result
	TookMS    int64 `json:"took_ms"`
	SameGroup bool  `json:"same_group,omitempty"` // it failed as the letter did
}

func newDLQTry(c *cli) *cobra.Command {
	e := trial.Endpoint{Timeout: 30 * time.Second}
	var yes bool
	cmd := &cobra.Command{
		Use:   "try ID --url URL",
		Short: "Post a dead letter's task to an endpoint of yours, once; the letter stays as it is",
		Long: `Runs one production failure on a laptop: the task is posted as a worker would post
it, with the same headers and under the run that it died with. Nothing is claimed,
replayed or written down, and nobody but the endpoint hears of it.

An endpoint that is not on this machine may have effects: it needs --yes.
Exits 1 if the endpoint did not complete the task.`,
		Example: "perdure dlq try main-1-42 --url http://localhost:8080/run",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if e.URL == "" {
				return exit.Usage(errors.New("say --url: where your endpoint listens, such as http://localhost:8080/run"))
			}
			if u, err := url.Parse(e.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
				return exit.Usage(fmt.Errorf("--url %s: want an http or https URL with a host, such as http://localhost:8080/run", e.URL))
			}
			if !yes && !local(e.URL) {
				return exit.Refusal(errors.New("the endpoint is not on this machine, and the task may have its effect there: say --yes"))
			}
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			var l dlq.LetterView
			if err := cl.Get(cmd.Context(), apiclient.Path("dead-letters", args[0]), nil, &l); err != nil {
				return err
			}
			task, err := taskOf(&l)
			if err != nil {
				return err
			}
			r, err := trial.Run(cmd.Context(), task, lastAttempt(l.Attempts), e)
			if err != nil {
				return exit.Usage(err)
			}
			out := tried{Letter: l.Letter, URL: e.URL, Result: r, TookMS: r.Took.Milliseconds(), SameGroup: r.Group == l.Group}
			if err := c.printer().One(out, func(w io.Writer) { showTried(w, &out, &l) }); err != nil {
				return err
			}
			if r.Group != "" {
				return errors.New("the endpoint did not complete it")
			}
			return nil
		},
	}
	fs := cmd.Flags()
	wordVar(fs, &e.URL, "url", "", "where the task is posted")
	wordVar(fs, &e.SecretEnv, "secret-env", "", "variable with the Standard Webhooks secret to sign with; default unsigned")
	agoVar(fs, &e.Timeout, "timeout", "how long the endpoint may take (default 30s)")
	fs.BoolVar(&yes, "yes", false, "also if the endpoint is not on this machine")
	return cmd
}

// local reports whether a URL is of this machine for certain.
func local(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil {
		return true // refused for what it is
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// taskOf is the task that a letter holds.
func taskOf(l *dlq.LetterView) (t schemas.Task, err error) {
	switch {
	case l.Hidden:
		return t, errors.New("payload and headers need a token with the verb read-payload")
	case l.Tombstone, l.Cut, schemas.Reason(l.Reason) == schemas.ReasonUndecodable:
		return t, fmt.Errorf("%s does not hold a whole task\n  next: perdure dlq show %s", l.Letter, output.Word(l.Letter))
	}
	headers, err := dlq.DecodeHeaders(l.Headers)
	if err != nil {
		return t, fmt.Errorf("%s: its headers: %w", l.Letter, err)
	}
	payload := []byte(l.Payload)
	if payload == nil {
		payload = l.PayloadBase64
	}
	key := l.Key // as on its record
	if key == "" {
		key = l.TaskID
	}
	if t, err = schemas.DecodeRecord([]byte(key), payload, headers); err != nil {
		return t, fmt.Errorf("%s: %w", l.Letter, err)
	}
	t.Run = l.Run
	return t, nil
}

// lastAttempt is the number of the attempt that a letter died at, 1 if that is not
// known.
func lastAttempt(raw json.RawMessage) int {
	var list []dlq.Attempt
	if err := json.Unmarshal(raw, &list); err != nil || len(list) == 0 {
		return 1
	}
	return max(list[len(list)-1].N, 1)
}

func showTried(w io.Writer, r *tried, l *dlq.LetterView) {
	failed, group := "", ""
	if r.Group != "" {
		failed = said(r.Class, r.Message)
		group = r.Group + ", another cause than the letter's " + l.Group
		if r.SameGroup {
			group = r.Group + ", the cause that the letter died of"
		}
	}
	output.Fields(w, [2]string{"letter", r.Letter}, [2]string{"outcome", r.Outcome + " in " + r.Took.Round(time.Millisecond).String()},
		[2]string{"error", output.Cut(failed, 300)}, [2]string{"group", group})
}
