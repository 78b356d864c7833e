"""API priority and fairness: no flood of requests keeps others from being served."""
