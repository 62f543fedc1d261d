-- Logins of one client address, which share a budget of wrong keys.
--
-- KEYS[1] holds the tries that count: try id -> when it stops counting. A try counts for as long as it is undecided
-- (a moment at most), and a wrong one for the whole window. KEYS[2] holds the keys that have worked from this
-- address: proof -> until when that is believed. Times are Redis's own, in milliseconds.
--
-- ARGV: what to do, try id, proof, then for `take` budget and longest moment, for `fail` window, for `pass` belief.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local act, id, proof = ARGV[1], ARGV[2], ARGV[3]

local function keep(key, id, ms)
  redis.call('ZADD', key, string.format('%.0f', now + ms), id)
  redis.call('PEXPIRE', key, string.format('%.0f', math.max(ms, redis.call('PTTL', key))))
end

if act == 'take' then
  local believed = redis.call('ZSCORE', KEYS[2], proof)
  if believed and tonumber(believed) > now then return -1 end
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
  if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[4]) then
    return math.max(1, tonumber(redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]) - now)
  end
  keep(KEYS[1], id, tonumber(ARGV[5]))
  return 0
end

if act == 'fail' then
  redis.call('ZREM', KEYS[2], proof)
  keep(KEYS[1], id, tonumber(ARGV[4]))
  return 0
end

redis.call('ZREM', KEYS[1], id)
if act == 'pass' then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now))
  keep(KEYS[2], proof, tonumber(ARGV[4]))
end
return 0
