package claims

// The scripts: text in lua/. prelude.lua begins all that decide by what Redis holds,
// chunk.lua those that read or write claims.

import (
	"embed"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var luaFiles embed.FS

var (
	claimScript    = load("prelude", "chunk", "claim")
	startScript    = load("prelude", "chunk", "start")
	doneScript     = load("prelude", "chunk", "done")
	finishScript   = load("prelude", "chunk", "finish")
	waitScript     = load("prelude", "chunk", "wait")
	deadScript     = load("prelude", "chunk", "dead")
	handBackScript = load("prelude", "chunk", "handback")
	releaseScript  = load("prelude", "chunk", "release")
	cancelScript   = load("prelude", "chunk", "cancel")
	reassertScript = load("prelude", "chunk", "reassert")
	hearScript     = load("prelude", "chunk", "hear")
	reportScript   = load("prelude", "chunk", "report")
	settledScript  = load("prelude", "settled")
	beatScript     = load("prelude", "beat")
	buryScript     = load("prelude", "bury")
	getScript      = load("chunk", "get")
	raiseScript    = load("raise")
	gateScript     = load("gate")
)

// load joins embedded files, which are there by construction.
func load(names ...string) *redis.Script {
	var src []byte
	for _, name := range names {
		part, err := luaFiles.ReadFile("lua/" + name + ".lua")
		if err != nil {
			panic("claims: " + err.Error())
		}
		src = append(src, part...)
	}
	return redis.NewScript(string(src))
}
