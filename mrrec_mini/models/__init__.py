"""General models. They do not depend on memory or recommendation, and import only each other from this package."""
