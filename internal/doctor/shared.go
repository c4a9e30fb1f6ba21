package doctor

// Share groups: would Kafka drop or skip a record of a queue with delivery: shared?

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
)

// locksWanted is the least number of records between a share group's start and
// its newest that a partition should allow: a slow task holds back the start.
const locksWanted = 1000

func sharedQueues(ctx context.Context, cl kmsg.Requestor, names kafka.Names, cat *schemas.Catalog, r *report) {
	for _, name := range cat.QueueNames() {
		if !cat.Queues[name].Shared {
			continue
		}
		group := names.ShareGroup(name)
		have, err := kafka.GroupSettings(ctx, cl, group)
		if err != nil {
			r.warn(err.Error(), "a share group with Kafka's defaults skips and drops records", "allow this user to describe configs of groups")
			continue
		}
		mend := func(setting, value string) string {
			return fmt.Sprintf("kafka-configs --alter --group %s --add-config %s=%s", group, setting, value)
		}
		good := true
		if reset := have[kafka.ShareResetSetting]; reset != "earliest" {
			good = false
			r.fail(fmt.Sprintf("share group %s has %s=%s", group, kafka.ShareResetSetting, reset),
				"tasks enqueued before its first worker joins would never run; no worker joins it so", mend(kafka.ShareResetSetting, "earliest"))
		}
		if limit, err := strconv.Atoi(have[kafka.ShareLimitSetting]); err == nil && limit < kafka.ShareDeliveriesLeast {
			good = false
			say, why := r.warn, "Kafka drops a record that was given out so often, and a few killed workers are enough"
			if limit < kafka.ShareDeliveriesMin {
				say, why = r.fail, why+"; no worker joins it so"
			}
			say(fmt.Sprintf("share group %s has %s=%d", group, kafka.ShareLimitSetting, limit), why, mend(kafka.ShareLimitSetting, strconv.Itoa(kafka.ShareDeliveries)))
		}
		if good {
			r.ok(fmt.Sprintf("share group %s: begins at the beginning, gives a record out up to %s times", group, have[kafka.ShareLimitSetting]))
		}
		if n, err := strconv.Atoi(have[kafka.ShareLocksSetting]); err == nil && n < locksWanted {
			r.warn(fmt.Sprintf("share group %s has %s=%d", group, kafka.ShareLocksSetting, n),
				"one slow task holds up its partition after so many others", mend(kafka.ShareLocksSetting, "2000"))
		}
		if ms, err := strconv.Atoi(have[kafka.ShareLockSetting]); err == nil && ms > 60_000 {
			r.warn(fmt.Sprintf("share group %s locks records for %v", group, time.Duration(ms)*time.Millisecond),
				"a worker that is stopped, not killed, keeps its records for so long", mend(kafka.ShareLockSetting, "30000"))
		}
	}
}
