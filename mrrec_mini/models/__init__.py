"""General models that know nothing of memory or recommendation, and import nothing of this package."""
