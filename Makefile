# The same names as in scripts/, for those who have make.
.PHONY: up down test check fix bench
up down test check fix bench:
	@scripts/$@ $(ARGS)
