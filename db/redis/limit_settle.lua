-- A request ended. Behind limit_charges.lua. ARGV: its id, and the tokens it took.

return settle(ARGV[1], ARGV[2])
