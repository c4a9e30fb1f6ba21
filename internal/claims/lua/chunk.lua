-- What stands of a chunk of 32,768 tasks beside their claims' own hashes. dk is
-- the chunk's key:
--   dk        bit = done
--   dk:seen   bit = done, or it has or once had a claim: clear means none
--   dk:keyed  bit = its claim is or once was a hash
--   dk:runs   hash: "<token of a claim call>/<partition>" → what it granted there from
--             none, in one value: "<owner> <topic>/<partition> <offset> ", then for each
--             task 6 bytes: its bit (2), its record's offset less that one (4), high byte first
-- So the claim of a task is: done, if its bit says so; else, if it is or was keyed,
-- its hash; else R(0, 1) as an entry of dk:runs says, under run 0.<incarnation>.1;
-- else none. A hash is made from an entry when something happens to it that an entry
-- cannot hold; most tasks are done before.
local chunk_runs = {}

-- The entries of a chunk by bit; read once a call.
local function runs_of(dk)
  local at = chunk_runs[dk]
  if at then return at end
  at = {}
  local all = redis.call('HGETALL', dk .. ':runs')
  for i = 1, #all, 2 do
    local token, v = string.match(all[i], '^[^/]+'), all[i + 1]
    local owner, part, base, from = string.match(v, '^(%S+) (%S+) (%d+) ()')
    local inc = string.match(token, '^%d+')
    for j = from, #v, 6 do
      local b1, b2, o1, o2, o3, o4 = string.byte(v, j, j + 5)
      at[b1 * 256 + b2] = {owner = owner, k = token, r = '0.' .. inc .. '.1',
        c = part .. '/' .. string.format('%.0f', tonumber(base) + ((o1 * 256 + o2) * 256 + o3) * 256 + o4)}
    end
  end
  chunk_runs[dk] = at
  return at
end

-- The entry of a task that is neither done nor has or had a hash; nil = none.
local function entry(dk, bit)
  if redis.call('GETBIT', dk .. ':seen', bit) == 0 or redis.call('GETBIT', dk, bit) == 1
    or redis.call('GETBIT', dk .. ':keyed', bit) == 1 then return nil end
  return runs_of(dk)[tonumber(bit)]
end

-- Lets a key live for the horizon at least: renewed in steps of a quarter of it,
-- so that most calls need not write it. left: its PTTL; one without an end keeps none.
local function live(key, left, horizon)
  if left ~= -1 and left < tonumber(horizon) then
    redis.call('PEXPIRE', key, string.format('%.0f', tonumber(horizon) * 1.25))
  end
end

-- Sets one bit. horizon '' = for ever: for the record that asks about it may come
-- in a year.
local function add_bit(key, bit, horizon)
  local left = redis.call('PTTL', key)
  redis.call('SETBIT', key, bit, 1)
  if horizon == '' then redis.call('PERSIST', key) else live(key, left, horizon) end
end

-- Notes that a task has a hash.
local function keyed(dk, bit, horizon)
  add_bit(dk .. ':seen', bit, horizon)
  add_bit(dk .. ':keyed', bit, horizon)
end

-- Forgets what a call granted and nobody began.
local function forget_call(dk, token)
  for _, field in ipairs(redis.call('HKEYS', dk .. ':runs')) do
    if string.match(field, '^[^/]+') == token then redis.call('HDEL', dk .. ':runs', field) end
  end
end

-- Makes the hash of a task whose R is an entry; begins every decision on a claim.
local function to_hash(ck, dk, bit, horizon)
  local e = entry(dk, bit)
  if not e then return end
  redis.call('HSET', ck, 's', 'R', 'e', 0, 'a', 1, 'r', e.r, 'o', e.owner, 'c', e.c, 'k', e.k)
  keyed(dk, bit, horizon)
end

-- Many bits at once: `bits` begins at byte `first` of key. A few are given one by
-- one instead: `first` is then -1 and `bits` their numbers, each ended by a space.
-- The keys tmp and tmp2 are the callers' to DEL, see forget.
local function hold(tmp, first, bits)
  if first == '-1' then return end
  redis.call('DEL', tmp) -- of a call that an error ended
  redis.call('SETRANGE', tmp, first, bits)
end

local function forget(tmp, first)
  if first ~= '-1' then redis.call('DEL', tmp, tmp .. '2') end
end

local function any_bit(key, tmp, first, bits)
  if first == '-1' then
    for bit in string.gmatch(bits, '%d+') do
      if redis.call('GETBIT', key, bit) == 1 then return true end
    end
    return false
  end
  if redis.call('EXISTS', key) == 0 then return false end
  redis.call('BITOP', 'AND', tmp .. '2', tmp, key)
  return redis.call('BITCOUNT', tmp .. '2') > 0
end

local function add_bits(key, tmp, first, bits, horizon)
  local left = redis.call('PTTL', key)
  if first == '-1' then
    for bit in string.gmatch(bits, '%d+') do redis.call('SETBIT', key, bit, 1) end
    return live(key, left, horizon)
  end
  redis.call('BITOP', 'OR', key, key, tmp) -- and its TTL is gone
  if left ~= -1 then live(key, 0, horizon) end
end
