-- How a tenant and one of its keys stand with their limits. Behind limits_common.lua. Changes nothing.
--
-- ARGV[1] is the key's scope, ARGV[2] as doubles the day's and the month's previous, current and next start and
-- end, then the limits of the tenant and of the key, -1 where there is none.
--
-- Answers {'known', now_s, then for each limit that is set: in use, of that reserved or -1, drained after ms},
-- or {'unknown', now_s}, or {'periods', now_s} if now is in none of the periods.

-- To look at more reservations would keep everybody else waiting.
local MOST_OPEN = 1000

local key = ARGV[1]
local n = {struct.unpack('<dddddddddddddddddd', ARGV[2])}

local function period_of_now(previous, current, following, ends)
  if now_s < previous or now_s >= ends then return nil end
  if now_s < current then return previous end
  if now_s < following then return current end
  return following
end

if not has_epoch() then return {'unknown', now_s} end
local day, month = period_of_now(n[1], n[2], n[3], n[4]), period_of_now(n[5], n[6], n[7], n[8])
if not day or not month then return {'periods', now_s} end

local is_open_known = redis.call('HLEN', prefix .. ':open') <= MOST_OPEN
local reserved = {t = {w = 0, d = 0, m = 0}, [key] = {w = 0, d = 0, m = 0}}
if is_open_known then
  for _, packed in ipairs(redis.call('HVALS', prefix .. ':open')) do
    local held = cmsgpack.unpack(packed)
    if not held.swept then
      for _, scope in ipairs({'t', held.key}) do
        local sums = reserved[scope]
        if sums then
          sums.w = sums.w + held.tokens
          if held.day == day then sums.d = sums.d + held.tokens end
          if held.month == month then sums.m = sums.m + held.tokens end
        end
      end
    end
  end
end

local answer = {'known', now_s}
local stands = {}
local stored = redis.call('HMGET', standings, 't', key)
stands.t, stands[key] = standing(stored[1]), standing(stored[2])

local function add(in_use, of_that_reserved, drained_ms)
  in_use = math.max(0, in_use)
  answer[#answer + 1] = in_use
  answer[#answer + 1] = is_open_known and math.min(in_use, of_that_reserved) or -1
  answer[#answer + 1] = drained_ms
end

local function add_bucket(scope, bucket, limit, of_that_reserved)
  if limit == 0 then return add(0, 0, 0) end
  local level = level_now(stands[scope], bucket, limit)
  add(math.ceil(level / UNIT), of_that_reserved, math.ceil(level / limit / 1000))
end

local function add_quota(period, start, scope, of_that_reserved)
  local spent = redis.call('HGET', string.format('%s:%s:%.0f', prefix, period, start), scope)
  add(tonumber(spent or 0), of_that_reserved, 0)
end

for _, level in ipairs({{'t', 9}, {key, 14}}) do
  local scope, first = level[1], level[2]
  local rpm, tpm, running, per_day, per_month = unpack(n, first, first + 4)
  if rpm >= 0 then add_bucket(scope, REQUESTS, rpm, 0) end
  if tpm >= 0 then add_bucket(scope, TOKENS, tpm, reserved[scope].w) end
  if running >= 0 then add(stands[scope][RUNNING], 0, 0) end
  if per_day >= 0 then add_quota('d', day, scope, reserved[scope].d) end
  if per_month >= 0 then add_quota('m', month, scope, reserved[scope].m) end
end
return answer
