//! Decides which addresses belong to the public network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address may be reached without the operator having typed it. It is neither private,
/// loopback, link-local (where clouds' metadata services are), shared, multicast nor reserved. An
/// address that carries an IPv4 address (mapped, NAT64, 6to4) is judged by the IPv4 address.
/// Source: IANA's special-purpose address registries.
pub(crate) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = a == 0
        || a >= 224
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        // The anycast addresses of 6to4 relays (RFC 7526), which carry packets elsewhere.
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19));
    !(special
        || is_metadata(ip.into())
        || ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation())
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let embedded = |high: u16, low: u16| {
        let ([w, x], [y, z]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(w, x, y, z))
    };
    match (a, b) {
        (0, 0) if (c, d, e) == (0, 0, 0) && f == 0xffff => embedded(g, h),
        (0x64, 0xff9b) => (c, d, e, f) == (0, 0, 0, 0) && embedded(g, h),
        (0x2002, high) => embedded(high, c),
        // Documentation, Teredo, benchmarking, and ORCHIDv2 (RFC 3849, 4380, 5180, 7343, 9637).
        (0x2001, 0xdb8) | (0x2001, 0) => false,
        (0x2001, 2) if c == 0 => false,
        (0x2001, 0x20..=0x2f) => false,
        (0x3fff, 0..=0x0fff) => false,
        // Global unicast is 2000::/3; all other addresses are special.
        _ => a & 0xe000 == 0x2000,
    }
}

/// Whether clouds have their metadata services at an address: link-local addresses, Azure's
/// WireServer, and the IPv6 addresses of Amazon and Google. These services hand credentials to any
/// process on the machine. So they are reached only if the operator typed the address.
pub(crate) fn is_metadata(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip == Ipv4Addr::new(168, 63, 129, 16),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(mapped) => is_metadata(mapped.into()),
            None => {
                let first = ip.segments()[0];
                first & 0xffc0 == 0xfe80
                    || ip == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
                    || ip == Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_not_public_however_they_are_written() {
        for special in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "::127.0.0.1",
            "168.63.129.16",
            "::ffff:168.63.129.16",
            "192.88.99.1",
            "3fff::1",
            "2001:2::1",
            "2001:20::1",
        ] {
            assert!(!is_public(special.parse().unwrap()), "{special}");
        }
        for public in [
            "1.1.1.1",
            "52.216.0.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }
}
