"""For all tests: property tests are bounded by their number of examples, not by the load of the machine."""
from hypothesis import HealthCheck, settings

settings.register_profile("xenvbd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("xenvbd")
