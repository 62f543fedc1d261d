-- A request asks again and heard nothing of its first question. Behind limit_charges.lua. ARGV: its id.
--
-- Gives back what it may hold. While the counters are not complete nothing is held that counts.

if has_epoch() then settle(ARGV[1], 0) end
return 1
