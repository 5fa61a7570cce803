"""An ML2 mechanism driver that binds every port on every host at once, without an agent: nothing has to be plugged."""
from neutron_lib import constants as n_const
from neutron_lib.api.definitions import portbindings
from neutron_lib.plugins.ml2 import api


class OslabMechanismDriver(api.MechanismDriver):
    def initialize(self):
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
