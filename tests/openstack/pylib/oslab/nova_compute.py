"""nova-compute, with the lab's drivers importable from nova.virt: Nova takes drivers from there only."""
import importlib
import os
import sys

# First: it settles Nova's concurrency mode.
from nova.cmd import compute
import nova.virt
from nova.scheduler.client import report


def main():
    machines = os.environ['LAB_VIRT'] == 'libvirt'
    module = importlib.import_module('oslab.machine_driver' if machines else 'oslab.nova_driver')
    sys.modules['nova.virt.oslab'] = nova.virt.oslab = module
    if not machines:
        # At every boot and deletion Nova asks Placement for the allocations of each server of the host, one by one,
        # should a PCI device want healing. A real host has some dozens of servers; the lab's may have a thousand.
        report.SchedulerReportClient.get_allocations_for_provider_tree = lambda self, context, nodename: {}
    sys.exit(compute.main())


if __name__ == '__main__':
    main()
