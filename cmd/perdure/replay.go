package main

// `perdure replay`: planning, running and watching replays.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/replayer"
)

func newReplay(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Put dead letters back to work, once their cause is repaired",
		Long: `A replay freezes the letters that its selector names, then puts each back into the
outbox under the same task id and the next epoch. A task that completed is refused.

The first few go alone, as a canary: if the cause is still there, the replay stops
itself, and nothing else has moved.

replay start exits 1 if no letter matches or the replay stopped itself, and 3 if every
letter is refused, or the plan may not start.`,
		Example: `perdure dlq groups
perdure replay plan --group fp2:4771f883ced71064 --rate 200 --ramp 1m --why "bank fixed its shard"
perdure replay start r-va6ybdljmki2 --yes
perdure replay start --group fp2:4771f883ced71064 --yes
perdure replay watch r-va6ybdljmki2`,
	}
	cmd.AddCommand(newReplayPlan(c), newReplayApprove(c), newReplayStart(c), newReplayStatus(c), newReplayLetters(c), newReplayReport(c), newReplayWatch(c),
		newReplayAct(c, "pause", "Hold a replay; what it moved stays moved"),
		newReplayAct(c, "resume", "Let a paused replay go on; a ramp begins again"),
		newReplayRate(c), newReplayAct(c, "cancel", "End a replay; what it moved stays moved"))
	return cmd
}

// planFlags are what a plan is made of.
type planFlags struct {
	replayer.PlanBody
	fix    fixFlags
	canary int
	noStop bool
	given  func(flag string) bool
}

func (p *planFlags) register(f *pflag.FlagSet) {
	p.given = f.Changed
	s := &p.Selector
	wordVar(f, &s.Group, "group", "", "letters of this failure group")
	wordsVar(f, &s.IDs, "id", "this letter or task; may be repeated")
	wordVar(f, &s.Kind, "kind", "", "letters of this kind")
	wordVar(f, &s.Queue, "queue", "", "letters of this queue")
	reasonVar(f, &s.Reason, "letters that died for this reason")
	wordVar(f, &s.Key, "key", "", "letters of this key")
	wordVar(f, &p.Where, "where", "", "jq over a letter, such as '.payload.amount > 100'; see docs/replaying.md")
	limitVar(f, &p.Limit, "limit", "at most this many, the oldest deaths (default: all)")
	f.IntVar(&p.canary, "canary", replayer.DefaultCanary, "how many go first, alone; 0 = none")
	p.Canary.Success, p.Stop.ErrorRate = 0.9, 0.5
	shareVar(f, &p.Canary.Success, "success", "the share of the canary that must complete")
	f.Float64Var(&p.Rate, "rate", 0, "letters a second; 0 = as fast as it can")
	f.Var(durationFlag{&p.Ramp}, "ramp", "over how long the rate grows, from a tenth")
	shareVar(f, &p.Stop.ErrorRate, "stop-error-rate", "stop if more than this share of the outcomes died again")
	f.IntVar(&p.Stop.SameFingerprint, "stop-same", 0, "stop if so many died again of the same cause; 0 = any number")
	f.IntVar(&p.Stop.Lag, "stop-lag", 0, "stop if so many have no outcome yet; 0 = any number")
	f.BoolVar(&p.Stop.IgnoreBreaker, "ignore-breaker", false, "go on where the breaker of a letter's kind is open: its endpoint was mended just now")
	f.BoolVar(&p.noStop, "no-stop", false, "no rule stops it")
	wordVar(f, &p.Why, "why", "", "for the audit")
	p.fix.register(f)
}

// planOnly are the flags that make no sense with a PLAN.
var planOnly = []string{"where", "limit", "canary", "success", "rate", "ramp", "stop-error-rate", "stop-same", "stop-lag", "ignore-breaker", "no-stop", "dry-run",
	"fix", "fix-jq", "fix-patch", "no-effects"}

func (p *planFlags) selected() bool {
	s := &p.Selector
	return len(s.IDs) > 0 || s.Group+s.Kind+s.Queue+s.Reason+s.Key != ""
}

func (p *planFlags) body() (b replayer.PlanBody, err error) {
	b = p.PlanBody
	// In a plan 0 is the default.
	switch {
	case p.given("success") && p.Canary.Success == 0:
		return b, exit.Usage(errors.New("--success 0 asks nothing of the canary: say --canary 0"))
	case p.given("stop-error-rate") && p.Stop.ErrorRate == 0 && !p.noStop:
		return b, exit.Usage(errors.New("--stop-error-rate must be above 0: to stop at the first that died again of its cause say --stop-same 1"))
	}
	if b.Fixer, err = p.fix.fixer(); err != nil {
		return b, err
	}
	b.Canary.Off, b.Stop.Off = p.canary == 0, p.noStop
	if p.canary != replayer.DefaultCanary { // else the replayer decides: none for a small plan
		b.Canary.Letters = p.canary
	}
	if p.noStop {
		b.Stop = replayer.Stop{Off: true}
	}
	return b, nil
}

// durationFlag reads a duration above zero into a plan.
type durationFlag struct{ d *replayer.Duration }

func (f durationFlag) Type() string { return "duration" }
func (f durationFlag) String() string {
	if f.d == nil || *f.d == 0 {
		return ""
	}
	return f.d.String()
}

func (f durationFlag) Set(s string) error { return f.d.UnmarshalText([]byte(s)) }

var errSelect = errors.New("say which letters: --group, --id, --kind, --queue, --reason or --key")

func newReplayPlan(c *cli) *cobra.Command {
	var p planFlags
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Freeze letters, look at each, and say what a replay would do; nothing moves",
		Long:  "Freezes letters, looks at each, and says what a replay would do; nothing moves.\n" + fixLong,
		Example: `perdure replay plan --group fp2:4771f883ced71064 --where '.payload.amount < 1000' --limit 500
perdure replay plan --kind refund.issue --rate 100 --ramp 30s --dry-run
perdure replay plan --kind refund.issue --fix-jq '.amount |= tonumber' --dry-run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !p.selected() {
				return exit.Usage(errSelect)
			}
			body, err := p.body()
			if err != nil {
				return err
			}
			return c.withReplay(cmd, func(ctx context.Context, cl *apiclient.Client) (r replayer.Replay, err error) {
				if err = cl.Post(ctx, "/v1/replays", body, &r); err != nil {
					return r, err
				}
				return r, c.follow(ctx, cl, &r, func(r *replayer.Replay) bool { return r.State != replayer.Planning })
			}, func(r *replayer.Replay) error {
				if r.State == replayer.Planning {
					return errNoReplayer(r)
				}
				return nothingPlanned(r)
			})
		},
	}
	p.register(cmd.Flags())
	cmd.Flags().BoolVar(&p.DryRun, "dry-run", false, "keep no plan that could be started")
	return cmd
}

// nothingPlanned is the error of a plan of which nothing can move.
func nothingPlanned(r *replayer.Replay) error {
	switch {
	case r.Letters == 0:
		return errNoLetter
	case r.State == replayer.Stopped:
		return fmt.Errorf("the plan stopped itself: %s", r.Note)
	case r.Refused == r.Letters:
		return exit.Refusal(fmt.Errorf("all %d letters are refused%s", r.Letters, whyRefused(r)))
	}
	return nil
}

var errNoLetter = errors.New("no open letter matches, so nothing is replayed\n  next: perdure dlq groups --state open")

func newReplayStart(c *cli) *cobra.Command {
	var p planFlags
	var yes, detach bool
	var hash string
	cmd := &cobra.Command{
		Use:   "start [PLAN]",
		Short: "Begin a planned replay, or plan one by --group, --id, --kind … and begin it",
		Long:  "Begins a planned replay, or plans one and begins it.\n" + fixLong,
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if p.selected() == (len(args) == 1) {
				return exit.Usage(errors.New("say which letters: either a PLAN, or --group, --id, --kind, --queue, --reason, --key"))
			}
			if hash != "" && len(args) == 0 {
				return exit.Usage(errors.New("--hash is of a PLAN that is made"))
			}
			if len(args) == 1 {
				for _, name := range planOnly {
					if cmd.Flags().Changed(name) {
						return exit.Usage(fmt.Errorf("--%s is a plan's: a PLAN that is made is not changed", name))
					}
				}
			}
			if !yes && !p.DryRun {
				return exit.Refusal(errors.New("a replay runs tasks again: look with --dry-run, then say --yes"))
			}
			body, err := p.body()
			if err != nil {
				return err
			}
			return c.withReplay(cmd, func(ctx context.Context, cl *apiclient.Client) (r replayer.Replay, err error) {
				if len(args) == 1 {
					err = cl.Post(ctx, apiclient.Path("replays", args[0], "start"), bodyOf("hash", hash, "why", p.Why), &r)
				} else {
					body.Start = true
					err = cl.Post(ctx, "/v1/replays", body, &r)
				}
				if err != nil || detach {
					return r, err
				}
				return r, c.follow(ctx, cl, &r, func(r *replayer.Replay) bool { return r.State.Over() || r.State.Waits() || r.Letters == 0 })
			}, func(r *replayer.Replay) error {
				if !detach && r.TakenAt == nil && !r.State.Over() && !r.State.Waits() && r.Letters > 0 {
					return errNoReplayer(r)
				}
				return nothingDone(r)
			})
		},
	}
	p.register(cmd.Flags())
	cmd.Flags().BoolVar(&p.DryRun, "dry-run", false, "look at every letter and say what would happen; change nothing")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	wordVar(cmd.Flags(), &hash, "hash", "", "start the PLAN only if this is its hash")
	cmd.Flags().BoolVar(&detach, "detach", false, "do not wait until it is over")
	return cmd
}

// withReplay asks for something of a replay, shows the answer, and ends as
// verdict says.
func (c *cli) withReplay(cmd *cobra.Command, ask func(context.Context, *apiclient.Client) (replayer.Replay, error), verdict func(*replayer.Replay) error) error {
	cl, err := c.api()
	if err != nil {
		return err
	}
	defer cl.Close()
	r, err := ask(cmd.Context(), cl)
	if err != nil {
		return refusedByState(err)
	}
	if err := c.printer().One(r, func(w io.Writer) { showReplay(w, &r) }); err != nil {
		return err
	}
	if verdict == nil {
		return nil
	}
	return verdict(&r)
}

// refusedByState makes a refusal of what the API says must not be done now.
func refusedByState(err error) error {
	var p *apiclient.Problem
	if errors.As(err, &p) {
		switch p.Name() {
		case "needs-approval", "letters-changed", "plan-changed":
			return exit.Refusal(err)
		}
	}
	return err
}

// nothingDone is the error of a replay that is over and did not do what was
// asked, so that a script does not take it for a repair. One that moved some
// letters did work: its counts are shown.
func nothingDone(r *replayer.Replay) error {
	switch {
	case r.Letters == 0:
		return errNoLetter
	case r.State == replayer.Stopped:
		return fmt.Errorf("replay %s stopped itself: %s\n  next: perdure replay status %s", r.ID, r.Note, r.ID)
	case r.State.Waits() && r.Approval != "" && r.ApprovedBy == "":
		return exit.Refusal(fmt.Errorf("another person must approve it: %s\n  next: perdure replay approve %s, with a token of another name", r.Approval, r.ID))
	case r.Replayed > 0 || !r.State.Over():
		return nil
	case r.State == replayer.Cancelled:
		return fmt.Errorf("replay %s was cancelled before it replayed anything", r.ID)
	}
	return exit.Refusal(fmt.Errorf("all %d letters are refused, so nothing is replayed%s", r.Letters, whyRefused(r)))
}

func whyRefused(r *replayer.Replay) string {
	var why strings.Builder
	for _, f := range r.Refusals {
		fmt.Fprintf(&why, "\n  %d: %s", f.Letters, f.Why)
	}
	return why.String()
}

// patience is how long a replay may wait for a replayer to take it.
const patience = 15 * time.Second

func errNoReplayer(r *replayer.Replay) error {
	return fmt.Errorf("no replayer has taken replay %s: does `perdure replayer` (or `perdure up`) run?\n  next: perdure replay watch %s", r.ID, r.ID)
}

func newReplayStatus(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "status [ID]",
		Short: "How far a replay is and what became of its tasks; without ID, all replays",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return c.withReplay(cmd, func(ctx context.Context, cl *apiclient.Client) (r replayer.Replay, err error) {
					return r, cl.Get(ctx, apiclient.Path("replays", args[0]), nil, &r)
				}, nil)
			}
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			var answer struct {
				Replays []replayer.Replay `json:"replays"`
			}
			if err := cl.Get(cmd.Context(), "/v1/replays", nil, &answer); err != nil {
				return err
			}
			return output.Table(c.printer(), answer.Replays, "no replays", []string{"REPLAY", "STATE", "LETTERS", "LEFT", "REPLAYED", "REFUSED", "WHO", "CREATED"},
				func(r replayer.Replay) []string {
					return []string{r.ID, replayState(&r), fmt.Sprint(r.Letters), fmt.Sprint(r.Left), fmt.Sprint(r.Replayed), fmt.Sprint(r.Refused), r.Who, r.CreatedAt.Local().Format(time.DateTime)}
				})
		},
	}
}

// bodyOf is a body of those members that have a value: an older dispatcher refuses names
// that it does not know.
func bodyOf(pairs ...string) map[string]any {
	body := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			body[pairs[i]] = pairs[i+1]
		}
	}
	return body
}

// newReplayAct is a command that posts to one route of a replay.
func newReplayAct(c *cli, name, short string) *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use:   name + " ID",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withReplay(cmd, func(ctx context.Context, cl *apiclient.Client) (r replayer.Replay, err error) {
				var body any
				if why != "" {
					body = bodyOf("why", why)
				}
				return r, cl.Post(ctx, apiclient.Path("replays", args[0], name), body, &r)
			}, nil)
		},
	}
	whyVar(cmd.Flags(), &why)
	return cmd
}

func newReplayApprove(c *cli) *cobra.Command {
	cmd := newReplayAct(c, "approve", "Approve a plan that another person made")
	cmd.Long = "A plan that is large, or has letters of a sensitive kind, starts only once a token of\nanother name than its planner's approved it."
	return cmd
}

func newReplayRate(c *cli) *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use:     "rate ID LETTERS_A_SECOND",
		Short:   "Change how fast a replay is, from now on; 0 = as fast as it can",
		Example: "perdure replay rate r-va6ybdljmki2 50",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var rate float64
			if _, err := fmt.Sscan(args[1], &rate); err != nil || rate < 0 {
				return exit.Usage(fmt.Errorf("%q is not a number of letters a second", args[1]))
			}
			return c.withReplay(cmd, func(ctx context.Context, cl *apiclient.Client) (r replayer.Replay, err error) {
				body := bodyOf("why", why)
				body["rate"] = rate
				return r, cl.Post(ctx, apiclient.Path("replays", args[0], "rate"), body, &r)
			}, nil)
		},
	}
	whyVar(cmd.Flags(), &why)
	return cmd
}

func replayState(r *replayer.Replay) string {
	if r.DryRun {
		return string(r.State) + " (dry run)"
	}
	return string(r.State)
}

func showReplay(w io.Writer, r *replayer.Replay) {
	replayed := "replayed"
	if r.DryRun {
		replayed = "would replay"
	}
	fields := [][2]string{
		{"replay", r.ID}, {"state", replayState(r)}, {"note", r.Note}, {"selector", string(r.Selector)}, {"where", r.Spec.Where}, {"fixer", fixerOf(r.Spec.Fixer)}, {"no effects", noEffectsOf(r.Spec.Fixer)}, {"who", r.Who}, {"why", r.Why},
		{"approval", approval(r)}, {"hash", r.Hash}, {"canary", canaryOf(&r.Spec)}, {"rate", rateOf(r)}, {"stops", stopsOf(&r.Spec.Stop)}, {"order", r.Order}, {"expected", expectedOf(r)},
		{"letters", fmt.Sprint(r.Letters)}, {"left", fmt.Sprint(r.Left)}, {replayed, fmt.Sprint(r.Replayed)}, {"refused", fmt.Sprint(r.Refused)},
	}
	output.Fields(w, fields...)
	for _, f := range r.Refusals {
		fmt.Fprintf(w, "  %d refused: %s (such as %s)\n", f.Letters, output.Safe(f.Why), output.Safe(f.Sample))
	}
	if b := r.Became; b != nil && r.Replayed > 0 {
		fmt.Fprintf(w, "  became: %d completed, %d died again, %d under way\n", b.Completed, b.DiedAgain, b.UnderWay)
		for _, f := range b.Causes {
			fmt.Fprintf(w, "    %d died of %s\n", f.Letters, output.Safe(f.Group))
		}
	}
	showFirst(w, r)
	showFixes(w, r)
	if r.State == replayer.Planned || r.State == replayer.Approved {
		if r.Approval != "" && r.ApprovedBy == "" {
			fmt.Fprintf(w, "next: another person: perdure replay approve %s\n", r.ID)
		} else if r.Left > 0 {
			fmt.Fprintf(w, "next: perdure replay start %s --yes\n", r.ID)
		}
	}
}

func approval(r *replayer.Replay) string {
	switch {
	case r.Approval == "":
		return ""
	case r.ApprovedBy == "":
		return "needed: " + r.Approval
	}
	return "by " + r.ApprovedBy
}

func canaryOf(s *replayer.Spec) string {
	if s.Canary.Off {
		return "none"
	}
	return fmt.Sprintf("%d letters, %.0f %% must complete within %s", s.Canary.Letters, 100*s.Canary.Success, s.Canary.Patience)
}

func rateOf(r *replayer.Replay) string {
	if r.Spec.Rate == 0 {
		return "as fast as it can"
	}
	s := fmt.Sprintf("%g/s", r.Spec.Rate)
	if r.Spec.Ramp > 0 {
		s += " after a ramp of " + r.Spec.Ramp.String()
	}
	if r.State == replayer.Ramping {
		s += fmt.Sprintf(", now %.1f/s", r.Rate)
	}
	return s
}

func stopsOf(s *replayer.Stop) string {
	if s.Off {
		return "by no rule"
	}
	rules := []string{fmt.Sprintf("more than %.0f %% of %d or more outcomes died again", 100*s.ErrorRate, s.Outcomes)}
	if s.SameFingerprint > 0 {
		rules = append(rules, fmt.Sprintf("%d died again of the same cause", s.SameFingerprint))
	}
	if s.Lag > 0 {
		rules = append(rules, fmt.Sprintf("%d have no outcome", s.Lag))
	}
	if !s.IgnoreBreaker {
		rules = append(rules, "a breaker of its kinds is open")
	}
	return strings.Join(rules, "; ")
}

func expectedOf(r *replayer.Replay) string {
	if r.Expected == 0 {
		return ""
	}
	return r.Expected.String()
}
