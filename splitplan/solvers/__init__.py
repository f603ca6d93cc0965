"""How it is found: HiGHS, CVXPY, exact special algorithms; and the audit of what they find. Knows no paper."""
