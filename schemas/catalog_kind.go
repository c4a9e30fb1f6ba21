package schemas

// One kind of the catalog.

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

// reservedKinds begins the ce_type of records that are no tasks, such as words to a
// key's line: nobody counts them, so no kind may be called so.
const reservedKinds = "perdure."

// maxAttempts bounds retry.max_attempts.
const maxAttempts = 1000

// minHeartbeat keeps heartbeats from becoming the load.
const minHeartbeat = time.Second

// maxConcurrency bounds concurrency.
const maxConcurrency = 100_000

func (b *builder) kind(e entry) {
	path := "kinds." + clip(e.name)
	o := b.object(e.value, e.at(), path, "queue", "schema", "timeout", "heartbeat_timeout", "expires_after", "start_within", "order",
		"on_dead", "effects", "retry", "dependency", "concurrency", "sensitive", "executor", "reconcile", "responses", "schedule", "unique")
	k := &Kind{Name: e.name}
	b.out.Kinds[e.name] = k
	if strings.HasPrefix(e.name, reservedKinds) {
		b.fail(e.key, path, "is reserved: what begins with "+reservedKinds+" is no task")
	}

	if _, ok := o.fields["queue"]; !ok {
		b.fail(e.key, path, "has no queue: say on which queue it runs")
	} else if k.Queue = o.text("queue", ""); k.Queue != "" && b.out.Queues[k.Queue] == nil {
		o.wrong("queue", "is not declared under queues"+didYouMean(k.Queue, keysOf(b.out.Queues)))
	}
	k.Timeout = o.duration("timeout", DefaultTimeout)
	if k.Heartbeat = o.duration("heartbeat_timeout", 0); k.Heartbeat > 0 && k.Heartbeat < minHeartbeat {
		o.wrong("heartbeat_timeout", "must be at least "+minHeartbeat.String())
	}
	k.ExpiresAfter = o.duration("expires_after", 0)
	if k.StartWithin = o.duration("start_within", 0); k.ExpiresAfter > 0 && k.StartWithin > k.ExpiresAfter {
		o.wrong("start_within", "is longer than expires_after, so that it bounds nothing")
	}
	k.Ordered = o.choice("order", "none", "none", "key") == "key"
	if q := b.out.Queues[k.Queue]; k.Ordered && q != nil && q.Shared {
		o.wrong("order", "key needs a queue with `delivery: partitioned`: "+k.Queue+" is shared, and its records come to any worker in any order")
	}
	k.BlockOnDead = o.choice("on_dead", "continue", "continue", "block") == "block"
	if k.BlockOnDead && !k.Ordered {
		o.wrong("on_dead", "block needs `order: key`: without an order there is nothing to block")
	}
	k.Effects = Effects(o.choice("effects", string(EffectsIdempotent),
		string(EffectsIdempotent), string(EffectsFenced), string(EffectsOnce)))
	k.Retry = b.retry(o)
	if k.Dependency = o.text("dependency", ""); k.Dependency != "" && b.out.Dependencies[k.Dependency] == nil {
		o.wrong("dependency", "is not declared under dependencies"+didYouMean(k.Dependency, keysOf(b.out.Dependencies)))
	}
	k.Concurrency = o.number("concurrency", 0, 1, maxConcurrency)
	k.Sensitive = o.flag("sensitive")
	b.executor(o, k)
	b.reconcile(o, k)
	b.schema(o, k)
	b.schedule(o, k)
	b.unique(o, k)
}

// untilCompleted is the word for a unique key that is held until its task has ended.
const untilCompleted = "completed"

// unique reads for how long a unique key is held.
func (b *builder) unique(kind object, k *Kind) {
	f, ok := kind.fields["unique"]
	if !ok {
		return
	}
	before := len(b.errs)
	o := b.object(f.value, f.at(), kind.path+".unique", "until")
	until, ok := o.fields["until"]
	if !ok {
		if len(b.errs) > before {
			return // it is no mapping, or until is misspelt: told
		}
		b.fail(f.key, o.path, "has no until: say for how long a key is held, completed or a period such as 10m")
		return
	}
	if s, isText := textOf(until.value); s == untilCompleted {
		k.UniqueUntilCompleted = true
		return
	} else if _, err := time.ParseDuration(s); isText && err != nil {
		o.wrong("until", "must be completed, or a period such as 10m")
		return
	}
	k.UniqueFor = o.duration("until", 0)
}

func (b *builder) retry(kind object) Retry {
	r := Retry{DefaultMaxAttempts, DefaultInitialDelay, DefaultMaxDelay}
	f, ok := kind.fields["retry"]
	if !ok {
		return r
	}
	o := b.object(f.value, f.at(), kind.path+".retry", "max_attempts", "initial_delay", "max_delay")
	r.MaxAttempts = o.number("max_attempts", r.MaxAttempts, 1, maxAttempts)
	r.InitialDelay = o.duration("initial_delay", r.InitialDelay)
	def := max(r.MaxDelay, r.InitialDelay)
	if r.MaxDelay = o.duration("max_delay", def); r.MaxDelay < r.InitialDelay {
		_, written := o.fields["initial_delay"]
		if !written {
			r.InitialDelay = r.MaxDelay // the default gives way
		} else {
			o.wrong("max_delay", "is less than initial_delay")
		}
	}
	return r
}

func (b *builder) executor(kind object, k *Kind) {
	responses := kind
	f, ok := kind.fields["executor"]
	if ok {
		o := b.object(f.value, f.at(), kind.path+".executor", "http")
		h, ok := o.fields["http"]
		if !ok {
			kind.wrong("executor", "names no executor: want http: {url: …}")
			return
		}
		web := b.object(h.value, h.at(), kind.path+".executor.http", "url", "secret_env", "responses")
		k.HTTP = &HTTPExecutor{}
		k.HTTP.URL, k.HTTP.SecretEnv = b.target(web, h)
		if _, ok := web.fields["responses"]; ok {
			if _, twice := kind.fields["responses"]; twice {
				kind.wrong("responses", "is given twice: once for the kind, once under executor.http")
			}
			responses = web
		}
	}
	if r, ok := responses.fields["responses"]; ok {
		if k.HTTP == nil {
			kind.wrong("responses", "needs an http executor: a Go handler returns its outcome")
			return
		}
		k.HTTP.Responses = b.responses(r, join(responses.path, "responses"))
	}
}

// target reads url and secret_env of an object.
func (b *builder) target(web object, at entry) (url, secretEnv string) {
	url, secretEnv = web.text("url", ""), web.text("secret_env", "")
	if _, ok := web.fields["url"]; !ok {
		b.fail(at.key, web.path, "has no url")
	} else if detail := badURL(url); detail != "" && url != "" {
		if strings.ContainsAny(url, "@?") {
			web.wrongSecret("url", detail)
		} else {
			web.wrong("url", detail)
		}
	}
	if secretEnv != "" && !envName.MatchString(secretEnv) {
		web.wrongSecret("secret_env", "must be the name of an environment variable, not the secret")
	}
	return url, secretEnv
}

// reconcile reads the hook of a kind with effects: once.
func (b *builder) reconcile(kind object, k *Kind) {
	f, ok := kind.fields["reconcile"]
	if !ok {
		return
	}
	if k.Effects != EffectsOnce {
		kind.wrong("reconcile", "needs `effects: once`: other kinds are run again when in doubt, and nothing is asked")
	}
	o := b.object(f.value, f.at(), kind.path+".reconcile", "http")
	h, ok := o.fields["http"]
	if !ok {
		kind.wrong("reconcile", "names no hook: want http: {url: …}, or leave it out and register one with worker.Reconcile")
		return
	}
	k.Reconcile = &HTTPHook{}
	k.Reconcile.URL, k.Reconcile.SecretEnv = b.target(b.object(h.value, h.at(), kind.path+".reconcile.http", "url", "secret_env"), h)
}

func (b *builder) responses(f entry, path string) map[int]string {
	out := map[int]string{}
	for _, e := range b.entries(f.value, f.at(), path) {
		status, err := strconv.Atoi(e.name)
		if err != nil || status < 200 || status > 599 || strconv.Itoa(status) != e.name {
			b.fail(e.key, join(path, clip(e.name)), "must be an HTTP status from 200 to 599")
			continue
		}
		o := object{b.source, path, e.key, map[string]entry{e.name: e}}
		out[status] = o.choice(e.name, "", "completed", "retry", "permanent")
	}
	return out
}

func (b *builder) schema(o object, k *Kind) {
	if _, ok := o.fields["schema"]; !ok {
		return
	}
	if k.SchemaFile = o.text("schema", ""); k.SchemaFile == "" {
		return
	}
	compiled := b.schemas.get(k.SchemaFile)
	if compiled.err != nil {
		o.wrong("schema", compiled.err.Error())
		return
	}
	k.validator, k.Schema, k.SchemaURI, k.SchemaFiles = compiled.validator, compiled.text, compiled.uri, compiled.files
}
