-- A live process's beat: a counter that expires, and a line about it for the
-- others. KEYS: inc, beat, grace, members.
-- ARGV: inc, TTL ms, grace ms, process, its line ('' = none), beat prefix,
-- what to do: 'b' beat, 'l' look, 'bl' both.
-- Reply: process, beats, line of every other member; nothing without a look.
local me, act = ARGV[4], ARGV[7]
if act ~= 'l' then
  -- Others count it as dead and may run what it held: it must not come back
  -- under this name.
  if redis.call('GET', KEYS[2]) == 'gone' then return redis.error_reply('PERDURE_GONE') end
  local n = redis.call('INCR', KEYS[2])
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  -- A beat that was missing (a new process, or this one or Redis was away) makes
  -- every silence doubtful: for the grace nobody is called silent, so that the
  -- others' beats can come back too.
  if n == 1 then redis.call('SET', KEYS[3], '1', 'PX', ARGV[3]) end
  if ARGV[5] ~= '' then redis.call('HSET', KEYS[4], me, ARGV[5]) end
end
local out = {}
if act == 'b' then return out end
local all = redis.call('HGETALL', KEYS[4])
for i = 1, #all, 2 do
  local process = all[i]
  if process ~= me then
    local beats = redis.call('GET', ARGV[6] .. process)
    if beats then
      out[#out + 1] = {process, beats, all[i + 1]}
    else
      -- Expired: silent for everyone, and its Kafka sessions end by themselves.
      -- Was it only away, its next beat says its line again.
      redis.call('HDEL', KEYS[4], process)
    end
  end
end
return out
