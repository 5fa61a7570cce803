"""Nova's libvirt driver, unchanged but for where it plugs a tap device: into the bridge of the network namespace in
which libvirtd and the machines run. Nova has no Linux bridges any more, and an Open vSwitch would want a kernel module.
"""
import os
import subprocess

from nova.virt.libvirt import driver
from nova.virt.libvirt import vif as libvirt_vif


def ip(*args, check=True):
    subprocess.run(['ip', '-n', os.environ['LAB_NETNS'], *args], check=check, stdout=subprocess.DEVNULL,
                   stderr=None if check else subprocess.DEVNULL)


class MachineVIFDriver(libvirt_vif.LibvirtGenericVIFDriver):
    def plug_tap(self, instance, vif):
        dev = self.get_vif_devname(vif)
        ip('link', 'delete', dev, check=False)
        subprocess.run(['ip', 'netns', 'exec', os.environ['LAB_NETNS'], 'ip', 'tuntap', 'add', dev, 'mode', 'tap'],
                       check=True)
        ip('link', 'set', dev, 'mtu', str(vif['network'].get_meta('mtu') or 1500))
        ip('link', 'set', dev, 'master', 'machines', 'up')

    def unplug_tap(self, instance, vif):
        ip('link', 'delete', self.get_vif_devname(vif), check=False)


class MachineDriver(driver.LibvirtDriver):
    def __init__(self, virtapi, read_only=False):
        super().__init__(virtapi, read_only)
        self.vif_driver = MachineVIFDriver()
