-- Counters that were lost are made anew, and what dead processes held comes back. Behind limit_charges.lua.

local MINUTE_S = 60
local BUCKETS = {r = REQUESTS, w = TOKENS}
-- What went by longer ago is in no day or month that counts.
local UNCOUNTED_S = 62 * 86400

local function has_ended(request) return redis.call('SISMEMBER', prefix .. ':ended', request) == 1 end

local function note_ended(request)
  redis.call('SADD', prefix .. ':ended', request)
  redis.call('EXPIRE', prefix .. ':ended', RECOUNT_S)
end

-- Takes the ids of live processes after grace_s. Answers how many reservations were given back. Those younger than
-- grace_s stay: their process may not have reported yet.
local function sweep(grace_s)
  local live = {}
  for i = 3, #ARGV do live[ARGV[i]] = true end
  local open = redis.call('HGETALL', prefix .. ':open')
  local returned = 0
  for i = 1, #open, 2 do
    local held = cmsgpack.unpack(open[i + 1])
    local forgotten = now_s - held.at > KEEP_S
    local dead = not live[held.process] and now_s - held.at >= tonumber(grace_s)
    if not held.swept and (forgotten or dead) then
      change(held, -1, -held.tokens)
      held.swept = true
      redis.call('HSET', prefix .. ':open', open[i], cmsgpack.pack(held))
      returned = returned + 1
    end
    if forgotten then redis.call('HDEL', prefix .. ':open', open[i]) end
  end
  return returned
end

local function unpack_held(process, key, numbers)
  local n = {struct.unpack('<dddddddd', numbers)}
  return {
    process = process, key = key, tokens = n[1], at = n[2], day = n[3], day_end = n[4], month = n[5],
    month_end = n[6], tenant_tpm = n[7], key_tpm = n[8],
  }
end

-- A request that was let in without asking, while nobody could be asked, takes its part of a minute's limits as far
-- as that minute lasts still, and never more than fills them.
local function fill_up(stand, bucket, limit, amount)
  if limit > 0 and amount > 0 then
    local level = level_now(stand, bucket, limit)
    set_level(stand, bucket, math.max(level, math.min(level + amount * UNIT, limit * UNIT)))
  end
end

local function fill_buckets(held, tokens, rpms)
  if now_s - held.at >= MINUTE_S then return end
  local tenant, key = standings_of(held.key)
  local tenant_rpm, key_rpm = struct.unpack('<dd', rpms)
  fill_up(tenant, REQUESTS, tenant_rpm, 1)
  fill_up(key, REQUESTS, key_rpm, 1)
  fill_up(tenant, TOKENS, held.tenant_tpm, tokens)
  fill_up(key, TOKENS, held.key_tpm, tokens)
  write_standings(tenant, held.key, key)
end

local function add_running(held)
  local tenant, key = standings_of(held.key)
  tenant[RUNNING], key[RUNNING] = tenant[RUNNING] + 1, key[RUNNING] + 1
  write_standings(tenant, held.key, key)
end

-- Enter a request that was let in without asking and still runs.
local function hold(request, process, key, numbers, rpms)
  if has_ended(request) or redis.call('HEXISTS', prefix .. ':open', request) == 1 then return 1 end
  local held = unpack_held(process, key, numbers)
  redis.call('HSET', prefix .. ':open', request, cmsgpack.pack(held))
  if has_epoch() then
    add_spent(held, held.tokens)
    add_running(held)
    fill_buckets(held, held.tokens, rpms)
  end
  return 1
end

-- Enter one that has ended; its tokens are the fact.
local function book(request, process, key, numbers, rpms)
  local held = unpack_held(process, key, numbers)
  if not has_epoch() then
    note_late(request, held, held.tokens)
  elseif redis.call('HEXISTS', prefix .. ':open', request) == 1 then
    settle(request, held.tokens)
  elseif not has_ended(request) then
    note_ended(request)
    add_spent(held, held.tokens)
    fill_buckets(held, held.tokens, rpms)
  end
  return 1
end

-- Requests of these scopes go uncounted from now on, as they have no limits.
local function leave_uncounted()
  redis.call('SADD', prefix .. ':uncounted', unpack(ARGV, 2))
  redis.call('EXPIRE', prefix .. ':uncounted', UNCOUNTED_S)
  redis.call('HDEL', standings, 'epoch')
  return 1
end

-- Those of these count from now on: where any went by uncounted, the counters are made anew.
local function count_from_now()
  if redis.call('SREM', prefix .. ':uncounted', unpack(ARGV, 2)) > 0 then redis.call('HDEL', standings, 'epoch') end
  return 1
end

-- Answers the requests that Redis counts by itself, and that the ledger may have as well.
local function heard_of()
  local found = redis.call('HKEYS', prefix .. ':open')
  local late = redis.call('HGETALL', prefix .. ':late')
  for i = 1, #late, 2 do
    if cmsgpack.unpack(late[i + 1]).key then found[#found + 1] = late[i] end
  end
  return found
end

local next_argument = 1

-- Arguments are read in place, as there may be more than fit on Lua's stack.
local function argument()
  next_argument = next_argument + 1
  return ARGV[next_argument]
end

local function begin_sums()
  local known = {}
  for _ = 1, tonumber(argument()) do
    local key = prefix .. ':' .. argument() .. ':' .. argument()
    local ends = tonumber(argument())
    if not known[key] then redis.call('DEL', key) end
    known[key] = true
    redis.call('HSET', key, argument(), argument())
    redis.call('EXPIREAT', key, string.format('%.0f', ends + KEEP_S))
  end
end

local function begin_ended()
  local ended = {}
  for _ = 1, tonumber(argument()) do
    local request = argument()
    ended[request] = true
    redis.call('HDEL', prefix .. ':open', request)
    note_ended(request)
  end
  return ended
end

-- Whoever declares a request lives, although it may have been swept while nobody could report.
local function is_held(request)
  local packed = redis.call('HGET', prefix .. ':open', request)
  return packed and not cmsgpack.unpack(packed).swept
end

local function nobody_runs()
  local all = redis.call('HGETALL', standings)
  for i = 1, #all, 2 do
    if all[i] ~= 'epoch' then
      local stand = standing(all[i + 1])
      stand[RUNNING] = 0
      redis.call('HSET', standings, all[i], packed(stand))
    end
  end
end

-- What was settled since it was declared is no longer running; what nobody declared is taken as Redis heard of it.
local function begin_running(ended)
  local late, known = {}, redis.call('HGETALL', prefix .. ':late')
  for i = 1, #known, 2 do late[known[i]] = cmsgpack.unpack(known[i + 1]) end
  for _ = 1, tonumber(argument()) do
    local request = argument()
    local held = unpack_held(argument(), argument(), argument())
    if late[request] then
      held.tokens = late[request].tokens
      late[request] = held
    elseif not is_held(request) then
      redis.call('HSET', prefix .. ':open', request, cmsgpack.pack(held))
    end
  end
  for request, held in pairs(late) do
    if held.key and not ended[request] then
      add_spent(held, held.tokens)
      note_ended(request)
    end
  end
  redis.call('DEL', prefix .. ':late')
  nobody_runs()
  for _, packed in ipairs(redis.call('HVALS', prefix .. ':open')) do
    local held = cmsgpack.unpack(packed)
    if not held.swept then
      add_spent(held, held.tokens)
      add_running(held)
    end
  end
end

local function begin_buckets()
  for _ = 1, tonumber(argument()) do
    local bucket, scope = BUCKETS[argument()], argument()
    local limit, level = tonumber(argument()), tonumber(argument()) * UNIT
    local stand = standing(redis.call('HGET', standings, scope))
    if level > level_now(stand, bucket, limit) then
      set_level(stand, bucket, math.min(level, limit * UNIT))
      redis.call('HSET', standings, scope, packed(stand))
    end
  end
end

-- A recount begins by leaving a mark, unless the counters are there. If the mark is gone in the end, so is all that
-- Redis heard of in between: it lost its memory, or another recount ended, and counted it in.
local function mark(recount)
  if has_epoch() then return 0 end
  redis.call('HSET', prefix .. ':recounts', recount, now_s)
  redis.call('EXPIRE', prefix .. ':recounts', RECOUNT_S)
  return 1
end

-- Takes the recount, and four lists, each behind its length: sums (period, start, end, scope, tokens), requests that ended and are in
-- the sums, reservations of running ones (request, process, key, numbers), and buckets (kind, scope, limit, how full).
-- Answers 1; 0 if somebody was quicker, -1 if what was told may be out of date.
local function begin()
  local marked_s = redis.call('HGET', prefix .. ':recounts', argument())
  if has_epoch() then return 0 end
  if not marked_s or now_s - marked_s > RECOUNT_S then return -1 end
  redis.call('DEL', prefix .. ':recounts')
  begin_sums()
  begin_running(begin_ended())
  begin_buckets()
  redis.call('HSET', standings, 'epoch', now_s)
  return 1
end

local acts = {
  hold = hold, book = book, heard_of = heard_of, mark = mark, sweep = sweep, begin = begin,
  leave_uncounted = leave_uncounted, count_from_now = count_from_now,
}
return acts[ARGV[1]](ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
