"""An ML2 mechanism driver that binds every port on every host at once, without an agent, as one that is always in time.

Nothing has to be plugged for servers that are none. For machines Nova makes a tap device, which the lab puts into its
bridge: Nova 34 has no support for vif_type bridge any more.
"""
import os

from neutron_lib import constants as n_const
from neutron_lib.api.definitions import portbindings
from neutron_lib.plugins.ml2 import api


class OslabMechanismDriver(api.MechanismDriver):
    def initialize(self):
        if os.environ['LAB_VIRT'] == 'libvirt':
            self.vif_type, self.vif_details = portbindings.VIF_TYPE_TAP, {portbindings.CAP_PORT_FILTER: False}
            return
        self.vif_type = portbindings.VIF_TYPE_OVS
        self.vif_details = {portbindings.CAP_PORT_FILTER: False, portbindings.OVS_HYBRID_PLUG: False,
                            portbindings.VIF_DETAILS_CONNECTIVITY: portbindings.CONNECTIVITY_L2,
                            'bridge_name': 'br-int', 'datapath_type': 'system'}

    @property
    def connectivity(self):
        return portbindings.CONNECTIVITY_L2

    def bind_port(self, context):
        vnic = context.current.get(portbindings.VNIC_TYPE, portbindings.VNIC_NORMAL)
        if vnic != portbindings.VNIC_NORMAL:
            return
        for segment in context.segments_to_bind:
            context.set_binding(
                segment[api.ID], self.vif_type, dict(self.vif_details), status=n_const.PORT_STATUS_ACTIVE)
            return
