"""CronJobs: makes a Job at each time of a schedule.

`schedule.py` reads schedules and finds times, `controller.py` is the story.
https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/
"""

from tiphys.controllers.cronjob.controller import CronJobController

__all__ = ["CronJobController"]
