package main

// Flags that refuse what an empty shell variable leaves behind. `--group $FP
// --dry-run` with no FP would else ask for a group named --dry-run, and be no
// dry run; `--group "$FP"` would ask for every group.

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/perdure/perdure/schemas"
)

// flagValue is a pflag.Value whose text is checked before it is taken.
type flagValue struct {
	kind  string // as pflag names its own, for completion
	shown string // the default, then what was given
	set   func(string) error
}

func (v *flagValue) String() string { return v.shown }
func (v *flagValue) Type() string   { return v.kind }

func (v *flagValue) Set(s string) error {
	switch {
	case strings.TrimSpace(s) == "":
		return errors.New("it is empty: is a shell variable not set?")
	case strings.HasPrefix(s, "--"):
		return errors.New("that is another flag: its own value is missing (is a shell variable empty?)")
	}
	if err := v.set(s); err != nil {
		return err
	}
	v.shown = s
	return nil
}

// wordVar is a text that is not empty and not another flag. short may be "".
func wordVar(fs *pflag.FlagSet, p *string, name, short, usage string) {
	fs.VarP(&flagValue{kind: "string", set: func(s string) error { *p = s; return nil }}, name, short, usage)
}

// whyVar is the reason of an act, as --why or --reason: for commands that choose no
// letters by --reason.
func whyVar(fs *pflag.FlagSet, p *string) {
	wordVar(fs, p, "why", "", "for the audit")
	wordVar(fs, p, "reason", "", "the same as --why")
	fs.Lookup("reason").Hidden = true
}

// reasonVar chooses letters by what they died for.
func reasonVar(fs *pflag.FlagSet, p *string, usage string) {
	fs.Var(&flagValue{kind: "string", set: func(s string) error {
		if !schemas.Reason(s).Known() {
			return errors.New("no letter dies of that: it chooses letters, by permanent, exhausted, expired, poison, undecodable, schema, unknown_kind, too_large, unknown or blocked; why you act is --why")
		}
		*p = s
		return nil
	}}, "reason", usage)
}

// wordsVar is several of them, by commas or by repeating the flag.
func wordsVar(fs *pflag.FlagSet, p *[]string, name, usage string) {
	fs.Var(&flagValue{kind: "strings", set: func(s string) error {
		for word := range strings.SplitSeq(s, ",") {
			if word = strings.TrimSpace(word); word == "" {
				return errors.New("one of them is empty")
			}
			*p = append(*p, word)
		}
		return nil
	}}, name, usage)
}

// agoVar is how long ago something may be; 0, the default, is no bound.
func agoVar(fs *pflag.FlagSet, p *time.Duration, name, usage string) {
	fs.Var(&flagValue{kind: "duration", set: func(s string) error {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			return errors.New("give how long ago, more than nothing, such as 24h or 30m")
		}
		*p = d
		return nil
	}}, name, usage)
}

// shareVar is a part of a whole, from 0 to 1; *p holds the default.
func shareVar(fs *pflag.FlagSet, p *float64, name, usage string) {
	fs.Var(&flagValue{kind: "float64", shown: strconv.FormatFloat(*p, 'g', -1, 64), set: func(s string) error {
		x, err := strconv.ParseFloat(s, 64)
		if err != nil || !(x >= 0 && x <= 1) { // of NaN neither holds
			return errors.New("give a share from 0 to 1, such as 0.9 for 90 %")
		}
		*p = x
		return nil
	}}, name, usage)
}

// limitVar is at most how many; *p holds the default.
func limitVar(fs *pflag.FlagSet, p *int, name, usage string) {
	fs.Var(&flagValue{kind: "int", shown: strconv.Itoa(*p), set: func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return errors.New("give a whole number from 1")
		}
		*p = n
		return nil
	}}, name, usage)
}
