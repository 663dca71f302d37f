"""The one shape that Locust sees; which it takes is an option, so that the web page offers it too."""

from __future__ import annotations

from locust import LoadTestShape

from loadtest.traffic.shapes import users_at


class Shape(LoadTestShape):
    use_common_options = True  # users, spawn rate and run time stay what the command line and the page say

    def tick(self) -> tuple[int, float] | None:
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        peak, rate = int(options.num_users or 1), float(options.spawn_rate or 1)
        return users_at(options.shape, self.get_run_time(), peak, rate, options.run_time or None)
