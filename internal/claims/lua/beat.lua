-- A live process's beat: a counter that expires. KEYS: inc, beat, grace.
-- ARGV: inc, TTL ms, grace ms.
-- A beat that was missing (a new process, or this one or Redis was away) makes
-- every silence doubtful: for the grace nobody is called silent, so that the
-- others' beats can come back too.
local n = redis.call('INCR', KEYS[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
if n == 1 then redis.call('SET', KEYS[3], '1', 'PX', ARGV[3]) end
return n
