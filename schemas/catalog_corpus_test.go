package schemas_test

// Catalogs, good and bad, for the parser and for the catalog's JSON Schema.

import "strings"

// kindWith is a catalog whose one kind has more lines.
func kindWith(lines ...string) string {
	return "version: 1\nqueues: {q: {}}\ndependencies: {d: {rate: 1/s}}\nkinds:\n  k:\n    queue: q\n    " + strings.Join(lines, "\n    ") + "\n"
}

func policyWith(s string) string {
	return "version: 1\nqueues: {q: {}}\nkinds: {k: {queue: q}}\npolicies:\n  p: " + s + "\n"
}

func queueWith(field string) string { return "version: 1\nqueues:\n  q: {" + field + "}\n" }

func urlOf(s string) string { return kindWith(`executor: {http: {url: "` + s + `"}}`) }

var goodCatalogs = map[string]string{
	"only a version": "version: 1\n",
	"shared queue":   queueWith("delivery: shared"),
	"partitioned":    queueWith("delivery: partitioned"),
	"empty parts":    "version: 1\nqueues:\ndependencies:\nkinds: {}\n",
	"as in the reference": `
version: 1
queues:
  payments: {partitions: 16, replication: 3, weight: 4, retention: 168h, dlq_retention: 720h}
dependencies:
  bank-api: {rate: 200/s}
kinds:
  refund.issue:
    queue: payments
    schema: schemas/refund.json
    timeout: 10s
    heartbeat_timeout: 5s
    expires_after: 24h
    start_within: 1m
    order: key                    # none | key
    on_dead: continue             # continue | block
    effects: fenced               # idempotent | fenced | once
    retry: {max_attempts: 8, initial_delay: 500ms, max_delay: 10m}
    dependency: bank-api
    executor: {http: {url: "http://refunds.internal/run", secret_env: REFUNDS_SECRET}}
`,
	"JSON is YAML":                `{"version": 1, "queues": {"q": {"partitions": 1000}}, "kinds": {"k": {"queue": "q"}}}`,
	"queue without fields":        "version: 1\nqueues:\n  q:\n  r: {}\n",
	"queue that is a number":      "version: 1\nqueues: {12: {}}\nkinds: {3: {queue: \"12\"}}\n",
	"whole number as a float":     queueWith("partitions: 8.0"),
	"composite duration":          queueWith("retention: 1h30m, dlq_retention: 1.5h"),
	"dependency without rate":     "version: 1\ndependencies: {d: , e: {}}\n",
	"rates":                       "version: 1\ndependencies: {a: {rate: 0.5/s}, b: {rate: 90/m}, c: {rate: 10/h}}\n",
	"concurrency":                 "version: 1\nqueues: {q: {}}\ndependencies: {d: {concurrency: 3}}\nkinds: {k: {queue: q, dependency: d, concurrency: 2}}\n",
	"block":                       kindWith("order: key", "on_dead: block"),
	"explicit defaults":           kindWith("order: none", "on_dead: continue", "effects: idempotent", "retry: {}"),
	"once":                        kindWith("effects: once"),
	"reconcile":                   kindWith("effects: once", "reconcile: {http: {url: https://x/, secret_env: X}}"),
	"unique":                      kindWith("unique: {until: 1h30m}"),
	"unique until completed":      kindWith("unique: {until: completed}"),
	"sensitive":                   kindWith("sensitive: true"),
	"fixers":                      "version: 1\nqueues: {q: {}}\nkinds: {k: {queue: q}}\nfixers: {n: {jq: .a = 1}, m: {http: {url: https://x/, secret_env: X, timeout: 1m}}}\npolicies: {p: {when: {kind: k}, replay: {fixer: m}}}\n",
	"schedule":                    kindWith("schedule: {cron: '30 4 * * MON-FRI', time_zone: Europe/Berlin, source: main, payload: {a: [1, x, null]}}"),
	"schedule by name":            kindWith("schedule: {cron: '@hourly'}"),
	"schedule with a schema":      kindWith("schema: schemas/refund.json", "schedule: {cron: '@daily', payload: {amount: 5, currency: EUR}}"),
	"replays":                     "version: 1\nreplays: {approve_over: 500, max_replays: 3}\n",
	"policy":                      policyWith("{when: {kind: 'k', class: 'HTTP 5*', reason: permanent, message: '*away*'}, wait_for: {quiet: 10s, age: 1m}, action: replay, replay: {canary: 5, success: 80, rate: 10, ramp: 1m, where: .payload.a}, limits: {per_hour: 5, total: 9, max_replays: 3, strikes: 1}, dry_run: true}"),
	"policy that notifies":        policyWith("{when: {kind: k}, action: notify, notify: {http: {url: https://x/, secret_env: X, timeout: 5s}}}"),
	"policy that waits for":       kindWith("dependency: d") + "policies: {p: {when: {kind: k}, wait_for: {dependency: d, healthy: 5m}}}\n",
	"policy that discards":        policyWith("{when: {message: old}, action: discard}"),
	"replays of nothing":          "version: 1\nreplays:\n",
	"max_delay below default":     kindWith("retry: {max_delay: 100ms}"),
	"initial_delay above default": kindWith("retry: {initial_delay: 1h}"),
	"responses of a kind":         kindWith("executor: {http: {url: https://x/}}", "responses: {404: permanent, \"409\": completed, 500: retry}"),
	"responses of a url":          kindWith("executor: {http: {url: https://x/, responses: {404: permanent}}}"),
	"url with a port":             urlOf("http://127.0.0.1:8080/run?x=1"),
	"private address":             urlOf("http://10.0.0.1/"),
	"IPv6 loopback":               urlOf("http://[::1]:80/"),
	"anchors":                     "version: 1\nqueues: {q: {}}\nkinds:\n  a: {queue: q, retry: &r {max_attempts: 3}}\n  b: {queue: q, retry: *r}\n",
	"longest names":               "version: 1\nqueues: {" + strings.Repeat("q", 60) + ": {}}\n",
}

// badCatalogs are refused by the parser and by the JSON Schema.
var badCatalogs = map[string]string{
	"fixer without a way":    "version: 1\nfixers: {n: {}}\n",
	"fixer with two ways":    "version: 1\nfixers: {n: {jq: ., http: {url: https://x/}}}\n",
	"no version":             "queues: {}\n",
	"another version":        "version: 2\n",
	"version as a text":      "version: \"1\"\n",
	"a list":                 "- version: 1\n",
	"a text":                 "version\n",
	"unknown field":          "version: 1\nqueus: {}\n",
	"reserved at the top":    "version: 1\nschedule: {}\n",
	"policy of nothing":      policyWith("{}"),
	"policy of everything":   policyWith("{when: {}}"),
	"policy of a bad reason": policyWith("{when: {reason: bad}}"),
	"policy of doubt":        policyWith("{when: {reason: unknown}}"),
	"policy that burns":      policyWith("{when: {kind: k}, action: burn}"),
	"policy without limits":  policyWith("{when: {kind: k}, limits: {per_hour: 0}}"),
	"policy never ready":     policyWith("{when: {kind: k}, wait_for: {quiet: 0s}}"),
	"policy tells nobody":    policyWith("{when: {kind: k}, action: notify}"),
	"policy tells and mends": policyWith("{when: {kind: k}, notify: {http: {url: https://x/}}}"),
	"policy tells no url":    policyWith("{when: {kind: k}, action: notify, notify: {http: {}}}"),
	"policy heals nothing":   policyWith("{when: {kind: k}, wait_for: {healthy: 5m}}"),
	"policy tries":           policyWith("{when: {kind: k}, dry_run: 1}"),
	"queues is a list":       "version: 1\nqueues: [a]\n",
	"queue is a text":        "version: 1\nqueues: {q: x}\n",
	"queue with underscore":  "version: 1\nqueues: {a_b: {}}\n",
	"queue with a dot":       "version: 1\nqueues: {a.b: {}}\n",
	"queue too long":         "version: 1\nqueues: {" + strings.Repeat("q", 61) + ": {}}\n",
	"queue ends with a dash": "version: 1\nqueues: {q-: {}}\n",
	"no partitions":          queueWith("partitions: 0"),
	"too many partitions":    queueWith("partitions: 1001"),
	"half a partition":       queueWith("partitions: 1.5"),
	"partitions as a text":   queueWith("partitions: many"),
	"no replication":         queueWith("replication: 0"),
	"negative weight":        queueWith("weight: -1"),
	"duration without unit":  queueWith("retention: 10"),
	"duration of days":       queueWith("retention: 7d"),
	"negative duration":      queueWith("retention: -1h"),
	"zero duration":          queueWith("retention: 0s"),
	"bare zero":              queueWith("dlq_retention: \"0\""),
	"empty duration":         queueWith("retention: \"\""),
	"null duration":          queueWith("retention: "),
	"reserved in a queue":    queueWith("upcast: 1"),
	"unique in a queue":      queueWith("unique: {until: 1h}"),
	"unique is a text":       kindWith("unique: 1h"),
	"unique without until":   kindWith("unique: {}"),
	"unique for ever":        kindWith("unique: {until: 0s}"),
	"unique until something": kindWith("unique: {until: done}"),
	"unique's unknown":       kindWith("unique: {until: 1h, by: key}"),
	"unknown delivery":       queueWith("delivery: share"),
	"rate without unit":      "version: 1\ndependencies: {d: {rate: 200}}\n",
	"rate of a day":          "version: 1\ndependencies: {d: {rate: 1/d}}\n",
	"no concurrency":         kindWith("concurrency: 0"),
	"half a dependency":      "version: 1\ndependencies: {d: {concurrency: 0.5}}\n",
	"zero rate":              "version: 1\ndependencies: {d: {rate: 0/s}}\n",
	"dependency is a list":   "version: 1\ndependencies: [d]\n",
	"bad dependency name":    "version: 1\ndependencies: {D: {}}\n",
	"kind without queue":     "version: 1\nkinds: {k: {timeout: 1s}}\n",
	"kind of nothing":        "version: 1\nkinds: {k: {}}\n",
	"bad kind name":          "version: 1\nqueues: {q: {}}\nkinds: {\"a b\": {queue: q}}\n",
	"kind of Perdure's own":  "version: 1\nqueues: {q: {}}\nkinds: {perdure.line: {queue: q}}\n",
	"misspelt field":         kindWith("timout: 10s"),
	"reserved in a kind":     kindWith("delivery: x", "upcast: x", "redact: x"),
	"schedule is a text":     kindWith("schedule: hourly"),
	"schedule without cron":  kindWith("schedule: {time_zone: UTC}"),
	"schedule of a number":   kindWith("schedule: {cron: 5}"),
	"schedule of a source":   kindWith("schedule: {cron: '@daily', source: A_B}"),
	"schedule's unknown":     kindWith("schedule: {cron: '@daily', every: 5m}"),
	"empty schema":           kindWith("schema: \"\""),
	"unknown order":          kindWith("order: keys"),
	"unknown on_dead":        kindWith("on_dead: stop"),
	"unknown effects":        kindWith("effects: fence"),
	"sensitive as a text":    kindWith("sensitive: \"true\""),
	"replays never":          "version: 1\nreplays: {max_replays: 0}\n",
	"unknown rule of replay": "version: 1\nreplays: {aprove_over: 1}\n",
	"block without order":    kindWith("on_dead: block"),
	"block with order none":  kindWith("order: none", "on_dead: block"),
	"no attempts":            kindWith("retry: {max_attempts: 0}"),
	"unknown field of retry": kindWith("retry: {max_attempt: 3}"),
	"retry is a number":      kindWith("retry: 3"),
	"zero timeout":           kindWith("timeout: 0.0s"),
	"executor of nothing":    kindWith("executor: {}"),
	"unknown executor":       kindWith("executor: {grpc: {}}"),
	"http without url":       kindWith("executor: {http: {secret_env: X}}"),
	"empty url":              urlOf(""),
	"url without scheme":     urlOf("example.com/run"),
	"url of a file":          urlOf("file:///etc/passwd"),
	"secret in secret_env":   kindWith("executor: {http: {url: http://x/, secret_env: whsec_abc+/=}}"),
	"status 99":              kindWith("executor: {http: {url: http://x/}}", "responses: {99: retry}"),
	"status class":           kindWith("executor: {http: {url: http://x/}}", "responses: {4xx: retry}"),
	"unknown response":       kindWith("executor: {http: {url: http://x/}}", "responses: {404: dead}"),
	"responses twice":        kindWith("executor: {http: {url: http://x/, responses: {404: retry}}}", "responses: {404: retry}"),
	"responses of Go":        kindWith("responses: {404: retry}"),
	"reconcile of fenced":    kindWith("effects: fenced", "reconcile: {http: {url: https://x/}}"),
	"reconcile by default":   kindWith("reconcile: {http: {url: https://x/}}"),
	"reconcile of nothing":   kindWith("effects: once", "reconcile: {}"),
	"reconcile without url":  kindWith("effects: once", "reconcile: {http: {secret_env: X}}"),
	"reconcile's file":       kindWith("effects: once", "reconcile: {http: {url: \"file:///x\"}}"),
	"reconcile's responses":  kindWith("effects: once", "reconcile: {http: {url: https://x/, responses: {404: retry}}}"),
}

// unseenCatalogs are refused by the parser for what a JSON Schema cannot see:
// other fields, other files, or the text before it became a value.
var unseenCatalogs = map[string]string{
	"fixer that waits":        "version: 1\nfixers: {n: {http: {url: https://x/, timeout: 2m}}}\n",
	"fixer to metadata":       "version: 1\nfixers: {n: {http: {url: 'http://169.254.169.254/'}}}\n",
	"fixer of nobody":         policyWith("{when: {kind: k}, replay: {fixer: n}}"),
	"fixer that is no jq":     "version: 1\nfixers: {n: {jq: '.a |= nope'}}\n",
	"where that is no jq":     policyWith("{when: {kind: k}, replay: {where: '.payload.a >'}}"),
	"where with a letter":     policyWith("{when: {kind: k}, replay: {where: $letter}}"),
	"start after the end":     kindWith("expires_after: 1m", "start_within: 2m"),
	"heartbeat too often":     kindWith("heartbeat_timeout: 500ms"),
	"empty":                   "",
	"only a comment":          "# nothing\n",
	"two documents":           "version: 1\n---\nversion: 1\n",
	"not YAML":                "version: [1\n",
	"tab":                     "version: 1\nqueues:\n\tq: {}\n",
	"not UTF-8":               "version: 1 # \xff\n",
	"NUL":                     "version: 1 # \x00\n",
	"deep":                    "version: " + strings.Repeat("[", 5000) + "\n",
	"deep dashes":             strings.Repeat("- ", 5000) + "\n",
	"kind twice":              "version: 1\nqueues: {q: {}}\nkinds:\n  k: {queue: q}\n  k: {queue: q}\n",
	"field twice":             kindWith("timeout: 1s", "timeout: 2s"),
	"undeclared queue":        "version: 1\nqueues: {payments: {}}\nkinds: {k: {queue: paymnts}}\n",
	"order on a shared queue": "version: 1\nqueues: {q: {delivery: shared}}\nkinds: {k: {queue: q, order: key}}\n",
	"cron of six fields":      kindWith("schedule: {cron: '0 30 4 * * *'}"),
	"cron of words":           kindWith("schedule: {cron: 'at noon'}"),
	"cron out of range":       kindWith("schedule: {cron: '61 * * * *'}"),
	"cron that never comes":   kindWith("schedule: {cron: '0 0 30 2 *'}"),
	"cron with a zone":        kindWith("schedule: {cron: 'CRON_TZ=UTC 0 0 * * *'}"),
	"cron every":              kindWith("schedule: {cron: '@every 5m'}"),
	"no such time zone":       kindWith("schedule: {cron: '@daily', time_zone: Mars/Olympus}"),
	"local time":              kindWith("schedule: {cron: '@daily', time_zone: Local}"),
	"payload against schema":  kindWith("schema: schemas/refund.json", "schedule: {cron: '@daily', payload: {wrong: true}}"),
	"payload of an alias":     "version: 1\nqueues: {q: &q {}}\nkinds: {k: {queue: q, schedule: {cron: '@daily', payload: {a: *q}}}}\n",
	"payload is infinite":     kindWith("schedule: {cron: '@daily', payload: {a: .inf}}"),
	"undeclared dependency":   kindWith("dependency: bank"),
	"policy of no kind":       policyWith("{when: {kind: kk}}"),
	"policy replays not":      policyWith("{when: {kind: k}, action: hold, replay: {canary: 1}}"),
	"policy ramps to nothing": policyWith("{when: {kind: k}, replay: {ramp: 1m}}"),
	"schema is not there":     kindWith("schema: schemas/none.json"),
	"schema above the folder": kindWith("schema: ../refund.json"),
	"schema is absolute":      kindWith("schema: /etc/passwd"),
	"schema is not JSON":      kindWith("schema: schemas/broken.json"),
	"schema is no schema":     kindWith("schema: schemas/wrong.json"),
	"schema of the network":   kindWith("schema: schemas/remote.json"),
	"schema refers to none":   kindWith("schema: schemas/dangling.json"),
	"max below initial":       kindWith("retry: {initial_delay: 2s, max_delay: 1s}"),
	"duration of ages":        kindWith("timeout: 90000h"),
	"duration overflows":      kindWith("timeout: 9999999999999999999h"),
	"link-local":              urlOf("http://169.254.1.1/"),
	"metadata":                urlOf("http://169.254.169.254/latest"),
	"metadata by name":        urlOf("http://Metadata.Google.Internal./"),
	"metadata as a number":    urlOf("http://2852039166/"),
	"metadata in hex":         urlOf("http://0xa9fea9fe/"),
	"metadata in IPv6":        urlOf("http://[::ffff:169.254.169.254]/"),
	"metadata in NAT64":       urlOf("http://[64:ff9b::a9fe:a9fe]/"),
	"metadata of AWS, IPv6":   urlOf("http://[fd00:ec2::254]/"),
	"metadata of Alibaba":     urlOf("http://100.100.100.200/"),
	"link-local IPv6":         urlOf("http://[fe80::1%25eth0]/"),
	"unspecified":             urlOf("http://0.0.0.0/"),
	"reconcile's metadata":    kindWith("effects: once", "reconcile: {http: {url: http://169.254.169.254/}}"),
	"password in a url":       urlOf("http://user:pass@x/"),
	"fragment":                urlOf("http://x/#y"),
	"url without host":        urlOf("http:///run"),
	"space in a url":          urlOf("http://x/a b"),
	"merge key":               "version: 1\nqueues: {q: {}}\nkinds:\n  a: &a {queue: q}\n  b: {<<: *a}\n",
	"only an alias":           "*00",
	"anchor in itself":        "version: 1\nqueues: &a\n  q: *a\n",
	"alias of nothing":        "version: 1\nqueues: {q: *none}\n",
	"tag":                     "version: !!str 1\n",
	"complex key":             "version: 1\nqueues:\n  ? [a]\n  : {}\n",
}
