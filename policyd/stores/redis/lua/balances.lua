-- ARGV: holds, of which only the account and what it carries counts.
-- Answers their balances.

return flat(balances(cjson.decode(ARGV[1])))
