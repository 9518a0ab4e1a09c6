"""Networks, the wrapper that gives them a parametrisation, and the processes that train them."""
