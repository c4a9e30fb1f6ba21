-- A process counts as dead from now on, whatever the grace says, until the mark
-- expires. KEYS: inc, its beat, members, lock, hold.
-- ARGV: inc, process, beats it was last seen with ('*' = any), mark ms, the
-- watcher, lock ms ('0' = a successor, who knows that it is dead and needs no
-- lock; nobody is to remove it from its groups, for the successor takes its place).
-- Reply: 1 = it is marked, by this call or before, and the caller goes on with
-- it; 0 = it has beaten since, or it is not the moment.
local n, watched = redis.call('GET', KEYS[2]), ARGV[6] ~= '0'
if not watched then
  if n and n ~= 'gone' and ARGV[3] ~= '*' and n ~= ARGV[3] then return 0 end
  redis.call('SET', KEYS[2], 'gone', 'PX', ARGV[4])
  redis.call('HDEL', KEYS[3], ARGV[2])
  return 1
end
-- Redis was lost a moment ago: nobody's beats mean anything yet.
if redis.call('EXISTS', KEYS[5]) == 1 then return 0 end
if not n or (n ~= 'gone' and n ~= ARGV[3]) then return 0 end
-- A successor took its place, or another watcher finished with it.
if n == 'gone' and redis.call('HEXISTS', KEYS[3], ARGV[2]) == 0 then return 0 end
-- One at a time, in the whole fleet.
if not redis.call('SET', KEYS[4], ARGV[5], 'NX', 'PX', ARGV[6]) then return 0 end
redis.call('SET', KEYS[2], 'gone', 'PX', ARGV[4])
return 1
