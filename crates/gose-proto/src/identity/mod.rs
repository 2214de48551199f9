//! Who a peer is: names in certificates, VM-Auth-Tokens, messages of the attach channel.
