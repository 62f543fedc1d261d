-- Places and the line of one model: one call takes in all that one process has to say and tells it what follows.
--
-- KEYS[1] holds everything about the model in one value, ARGV[1] is what the process says, ARGV[2] the channel on
-- which processes hear that they should speak (theirs alone with their name behind it).
--
--   processes   name -> {seq, at: when it last spoke, held: backend -> places, caps: backend -> how many there are,
--               deaf: it did not take an offer}
--   line        tickets in order of arrival: {process, number, arrival, backends, offer, offered}
--   last        the newest arrival given
--   at, opens   when anybody last spoke; until when nothing is given
--
-- A process always says all it holds and everybody of its own who waits: whatever was lost is whole again with its
-- next word, and nothing has to be undone. Times are microseconds.

local LEASE = 2000000
local HELD = 6000000
local OFFER = 100000
-- Processes that hold anything speak every second: after twice that, nobody could.
local SILENCE = 2000000
local KEEP_MS = 86400000

local key, channel = KEYS[1], ARGV[2]
local process, seq, recall, most_waiting, model, held, caps, wanted = unpack(cmsgpack.unpack(ARGV[1]))
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function anybody_holds(state)
  for _, one in pairs(state.processes) do
    if next(one.held) then return true end
  end
  return false
end

-- What Redis forgot, or what went on while nobody could speak, has to be said again before anything is given.
local function recollect()
  local packed = redis.call('GET', key)
  local state = packed and cmsgpack.unpack(packed) or {processes = {}, line = {}, last = 0, opens = 0}
  if not packed or (now - state.at > SILENCE and anybody_holds(state)) then
    state.opens = now + recall
    for _, one in pairs(state.processes) do one.at = math.max(one.at, state.opens - HELD) end
    redis.call('PUBLISH', channel, model)
  end
  return state
end

local state = recollect()
local processes = state.processes

-- Words that a broken connection delivered late.
if processes[process] and processes[process].seq >= seq then return cmsgpack.pack({}) end

for name, one in pairs(processes) do
  if now - one.at > HELD then processes[name] = nil end
end
processes[process] = {seq = seq, at = now, held = held, caps = caps}
state.at = now

-- The line without those who left: tickets of the silent, and of this process what it no longer names.
local function stand_in_line()
  local line, known = {}, {}
  for _, ticket in ipairs(state.line) do
    local owner = processes[ticket.process]
    if ticket.process == process then
      known[ticket.number] = ticket
    elseif owner and now - owner.at <= LEASE then
      line[#line + 1] = ticket
    end
  end
  for _, one in ipairs(wanted) do
    local number, arrival, stays, backends = unpack(one)
    local ticket = known[number] or {process = process, number = number, arrival = arrival, fresh = arrival == 0}
    if ticket.arrival == 0 then ticket.arrival = math.max(now, state.last + 1) end
    state.last = math.max(state.last, ticket.arrival)
    ticket.backends, ticket.stays = backends, stays
    line[#line + 1] = ticket
  end
  table.sort(line, function(a, b)
    if a.arrival ~= b.arrival then return a.arrival < b.arrival end
    if a.process ~= b.process then return a.process < b.process end
    return a.number < b.number
  end)
  return line
end

local function contains(list, wanted_one)
  for _, one in ipairs(list) do
    if one == wanted_one then return true end
  end
  return false
end

local function places_in_use(line)
  local used = {}
  for _, one in pairs(processes) do
    for backend, places in pairs(one.held) do used[backend] = (used[backend] or 0) + places end
  end
  for _, ticket in ipairs(line) do
    if ticket.offer and now - ticket.offered > OFFER then
      ticket.offer = nil
      -- Nobody of a process that does not listen is offered anything before it speaks again.
      if ticket.process ~= process then processes[ticket.process].deaf = true end
    elseif ticket.offer and not contains(ticket.backends, ticket.offer) then
      ticket.offer = nil
    elseif ticket.offer then
      used[ticket.offer] = (used[ticket.offer] or 0) + 1
    end
  end
  return used
end

local line = stand_in_line()
local used = places_in_use(line)

-- The first backend of a ticket that has room, if the ticket may have it now.
local function room_for(ticket)
  local owner = processes[ticket.process]
  if owner.deaf or now < state.opens then return nil end
  for _, backend in ipairs(ticket.backends) do
    if (used[backend] or 0) < (owner.caps[backend] or 0) then return backend end
  end
  return nil
end

local answers, waiting, heard = {}, {}, {}
for _, ticket in ipairs(line) do
  local mine = ticket.process == process
  local backend = ticket.offer
  if not backend then
    backend = room_for(ticket)
    if backend then used[backend] = (used[backend] or 0) + 1 end
    if backend and not mine then
      ticket.offer, ticket.offered = backend, now
      heard[ticket.process] = true
    end
  end
  local verdict
  if mine and backend then
    held[backend] = (held[backend] or 0) + 1
    verdict = 'place'
  elseif mine and not ticket.stays then
    verdict = 'pass'
  elseif mine and ticket.fresh and #waiting >= most_waiting then
    verdict = 'full'
  else
    verdict = 'wait'
    ticket.fresh = nil
    waiting[#waiting + 1] = ticket
  end
  if mine then answers[#answers + 1] = {ticket.number, verdict, ticket.arrival, backend or ''} end
end
state.line = waiting

redis.call('SET', key, cmsgpack.pack(state), 'PX', KEEP_MS)
for name in pairs(heard) do redis.call('PUBLISH', channel .. ':' .. name, model) end
return cmsgpack.pack(answers)
