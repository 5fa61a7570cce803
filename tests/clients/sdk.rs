//! openstacksdk, its cloud layer above all: `tests/clients/sdk.py`.

stories!(crate::told::Library::Sdk => server, image, key_pair, port, floating_ip, tags);
