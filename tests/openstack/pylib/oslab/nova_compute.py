"""nova-compute, with the lab's driver importable from nova.virt: Nova takes drivers from there only."""
import sys

# First: it settles Nova's concurrency mode.
from nova.cmd import compute
import nova.virt
from nova.scheduler.client import report

from oslab import nova_driver


def main():
    sys.modules['nova.virt.oslab'] = nova.virt.oslab = nova_driver
    # At every boot and deletion Nova asks Placement for the allocations of each server of the host, one by one, should a
    # PCI device want healing. A real host has some dozens of servers; the lab's may have a thousand.
    report.SchedulerReportClient.get_allocations_for_provider_tree = lambda self, context, nodename: {}
    sys.exit(compute.main())


if __name__ == '__main__':
    main()
