"""What papers stand on: general models that know nothing of memory or recommendation, and import nothing from us."""
