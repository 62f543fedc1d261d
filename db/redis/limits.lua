-- What every limited request asks: to be let in, and to be charged for what it took. Behind limits_common.lua.
-- One call decides over all limits or changes nothing.

-- When a running request ends nobody knows.
local RUNNING_WAIT_MS = 1000
local MINUTE_MS = 60000

-- Return the start and the end of the period that holds now; nil if none of the known ones does.
local function period_of_now(previous, current, following, ends)
  if now_s < previous or now_s >= ends then return nil end
  if now_s < current then return previous, current end
  if now_s < following then return current, following end
  return following, ends
end

-- Answers {'admitted' or 'refused', now, place of the limit that opens last or 0, its wait in ms, then what remains
-- and the reset in ms of each limit}, or {'unknown', now}, or {'periods', now} if now is in none of the periods, or
-- {'late', now} if whoever asked does not wait any more.
local function take(request, process, key, numbers)
  local n = {struct.unpack('<ddddddddddddddddddddd', numbers)}
  local tokens, until_us, again = n[1], n[2], n[3] == 1
  if now > until_us then return {'late', now} end
  local day, day_end = period_of_now(n[4], n[5], n[6], n[7])
  local month, month_end = period_of_now(n[8], n[9], n[10], n[11])
  if not day or not month then return {'periods', now} end
  if again and has_epoch() then settle(request, 0) end
  -- Buckets of the tenant, then of the key; the epoch behind them spares a call.
  local bucket_limits = {n[12], n[13], n[17], n[18]}
  local bucket_keys = {
    prefix .. ':r:t', prefix .. ':w:t', prefix .. ':r:' .. key, prefix .. ':w:' .. key, prefix .. ':epoch',
  }
  local buckets = redis.call('MGET', unpack(bucket_keys))
  if not buckets[5] then return {'unknown', now} end

  local running = redis.call('HMGET', prefix .. ':running', 't', key)
  local spent_day = redis.call('HMGET', period_key('d', day), 't', key)
  local spent_month = redis.call('HMGET', period_key('m', month), 't', key)
  local day_wait_ms = math.ceil(day_end * 1000 - now / 1000)
  local month_wait_ms = math.ceil(month_end * 1000 - now / 1000)

  -- How all limits stand once so much more is taken: what remains, below zero where a limit does not admit it, and
  -- the reset. Behind it the levels of the buckets.
  local function look(requests_more, tokens_more)
    local answer, at, levels = {'admitted', now, 0, 0}, 4, {}
    local function note(left, reset_ms, wait_ms)
      answer[at + 1], answer[at + 2] = math.max(0, left), reset_ms
      at = at + 2
      if left < 0 and (answer[3] == 0 or wait_ms > answer[4]) then
        answer[1], answer[3], answer[4] = 'refused', (at - 4) / 2, wait_ms
      end
    end
    local function fill(place, more)
      local limit = bucket_limits[place]
      if limit < 0 then return end
      if limit == 0 then return note(-1, MINUTE_MS, MINUTE_MS) end
      local level = level_now(buckets[place], limit) + more * UNIT
      levels[place] = level
      note(
        limit - math.ceil(level / UNIT), math.ceil(level / limit / 1000),
        math.ceil((level - limit * UNIT) / limit / 1000)
      )
    end
    for scope = 1, 2 do
      local at_once, per_day, per_month = unpack(n, 9 + 5 * scope, 11 + 5 * scope)
      fill(2 * scope - 1, requests_more)
      fill(2 * scope, tokens_more)
      if at_once >= 0 then
        local left = at_once - tonumber(running[scope] or 0) - requests_more
        note(left, left < at_once and RUNNING_WAIT_MS or 0, RUNNING_WAIT_MS)
      end
      if per_day >= 0 then
        note(per_day - tonumber(spent_day[scope] or 0) - tokens_more, day_wait_ms, day_wait_ms)
      end
      if per_month >= 0 then
        note(per_month - tonumber(spent_month[scope] or 0) - tokens_more, month_wait_ms, month_wait_ms)
      end
    end
    return answer, levels
  end

  local answer, levels = look(1, tokens)
  if answer[3] ~= 0 then
    local before = look(0, 0)
    before[1], before[3], before[4] = answer[1], answer[3], answer[4]
    return before
  end

  for place, level in pairs(levels) do write_bucket(bucket_keys[place], bucket_limits[place], level) end
  local held = {
    process = process, key = key, at = now_s, tokens = tokens, day = day, day_end = day_end, month = month,
    month_end = month_end, tenant_tpm = math.max(0, n[13]), key_tpm = math.max(0, n[18]),
  }
  local function add(sums, known, more, ends)
    local tenant = tonumber(known[1] or 0) + more
    redis.call('HSET', sums, 't', tenant, key, tonumber(known[2] or 0) + more)
    if ends and tenant == more then redis.call('EXPIREAT', sums, ends + KEEP_S) end
  end
  add(period_key('d', day), spent_day, tokens, day_end)
  add(period_key('m', month), spent_month, tokens, month_end)
  add(prefix .. ':running', running, 1)
  redis.call('HSET', prefix .. ':open', request, cmsgpack.pack(held))
  return answer
end

local acts = {take = take, settle = settle}
return acts[ARGV[1]](ARGV[2], ARGV[3], ARGV[4], ARGV[5])
