package doctor

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
)

// groupConfigs answers for a broker that has these settings of every group; some are
// out of a real broker's default bounds.
type groupConfigs map[string]string

func (g groupConfigs) Request(_ context.Context, req kmsg.Request) (kmsg.Response, error) {
	asked, ok := req.(*kmsg.DescribeConfigsRequest)
	if !ok || g == nil {
		return nil, errors.New("the broker hangs up")
	}
	resp := asked.ResponseKind().(*kmsg.DescribeConfigsResponse) //nolint:errcheck,forcetypeassert // of that request
	for _, r := range asked.Resources {
		got := kmsg.NewDescribeConfigsResponseResource()
		got.ResourceType, got.ResourceName = r.ResourceType, r.ResourceName
		for name, value := range g {
			c := kmsg.NewDescribeConfigsResponseResourceConfig()
			c.Name, c.Value = name, kmsg.StringPtr(value)
			got.Configs = append(got.Configs, c)
		}
		resp.Resources = append(resp.Resources, got)
	}
	return resp, nil
}

func TestEverySettingOfAShareGroupIsLookedAt(t *testing.T) {
	cat, err := schemas.ParseCatalog("catalog.yaml", []byte("version: 1\nqueues:\n  mail: {delivery: shared}\n  other: {}\nkinds:\n  mail.send: {queue: mail}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	good := groupConfigs{
		kafka.ShareResetSetting: "earliest", kafka.ShareLimitSetting: "5",
		kafka.ShareLocksSetting: "1000", kafka.ShareLockSetting: "60000",
	}
	with := func(changes ...string) groupConfigs {
		g := maps.Clone(good)
		for i := 0; i < len(changes); i += 2 {
			g[changes[i]] = changes[i+1]
		}
		return g
	}
	const group = "p-perdure.mail.shared"
	for name, c := range map[string]struct {
		have groupConfigs
		want map[string]Level // by what it says
		mend string
	}{
		"good, at each bound":         {good, map[string]Level{"up to 5 times": OK}, ""},
		"begins at the end":           {with(kafka.ShareResetSetting, "latest"), map[string]Level{"share.auto.offset.reset=latest": Fail}, "share.auto.offset.reset=earliest"},
		"gives out seldom":            {with(kafka.ShareLimitSetting, "4"), map[string]Level{"share.delivery.count.limit=4": Warn}, "share.delivery.count.limit=10"},
		"as seldom as a worker takes": {with(kafka.ShareLimitSetting, "3"), map[string]Level{"share.delivery.count.limit=3": Warn}, "share.delivery.count.limit=10"},
		"gives out too seldom":        {with(kafka.ShareLimitSetting, "2"), map[string]Level{"share.delivery.count.limit=2": Fail}, "share.delivery.count.limit=10"},
		"both":                        {with(kafka.ShareResetSetting, "latest", kafka.ShareLimitSetting, "2"), map[string]Level{"share.auto.offset.reset=latest": Fail, "share.delivery.count.limit=2": Fail}, "earliest"},
		"few records in hand":         {with(kafka.ShareLocksSetting, "999"), map[string]Level{"up to 5 times": OK, "share.partition.max.record.locks=999": Warn}, "share.partition.max.record.locks=2000"},
		"long locks":                  {with(kafka.ShareLockSetting, "60001"), map[string]Level{"up to 5 times": OK, "locks records for 1m0.001s": Warn}, "share.record.lock.duration.ms=30000"},
		"a broker that tells little":  {groupConfigs{kafka.ShareResetSetting: "earliest"}, map[string]Level{"begins at the beginning": OK}, ""},
		"one that does not answer":    {nil, map[string]Level{"hangs up": Warn}, "describe configs of groups"},
	} {
		r := &report{}
		sharedQueues(t.Context(), c.have, kafka.Names{Prefix: "p-"}, cat, r)
		mended := c.mend == ""
		for what, level := range c.want {
			n := 0
			for _, f := range r.findings {
				if f.Level == level && strings.Contains(f.What, what) && strings.Contains(f.What, group) {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%s: %d findings say %q at %v: %+v", name, n, what, level, r.findings)
			}
		}
		for _, f := range r.findings {
			mended = mended || strings.Contains(f.Mend, c.mend)
			if f.Level != OK && (f.Mend == "" || f.Why == "") {
				t.Errorf("%s: what now? %+v", name, f)
			}
		}
		if !mended || len(r.findings) != len(c.want) {
			t.Errorf("%s: %+v, want %q among so many as %v", name, r.findings, c.mend, c.want)
		}
	}
}
