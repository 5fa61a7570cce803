//! Gophercloud: `tests/clients/gophercloud`.

stories!(crate::told::Library::Gophercloud => server, image, key_pair, port, floating_ip, tags);
