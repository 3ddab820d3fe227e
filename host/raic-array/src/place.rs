//! Where the shares of a stream go, and when enough of them are stored.
//!
//! Each share has a **home**, a cloud of its own. A cloud that is down takes no share. If the file
//! would not survive with those that are left, the shares of the clouds that are down are stored as
//! **second shares** on the others.

use std::collections::BTreeMap;

use raic_storage::{ServerId, ShareNum, StorageIndex, Weight};

use crate::format::Geometry;

/// When a stream may be acknowledged: it survives the loss of any n-k clouds, those counted that
/// hold no share now, and of any `survive` further failure domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) geometry: Geometry,
    /// Number of failure domains that may be lost right after the stream was acknowledged.
    pub(crate) survive: usize,
}

/// A cloud that shares may go to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Site {
    pub(crate) server: ServerId,
    /// Clouds of one failure domain are lost together.
    pub(crate) domain: String,
    /// How many shares it gets beside the others.
    pub(crate) weight: Weight,
    /// Bytes that can still be stored there, if that is known and limited.
    pub(crate) free: Option<u64>,
    pub(crate) is_up: bool,
    /// Whether it takes no new shares, whatever happens: it is draining or read-only.
    pub(crate) is_closed: bool,
}

impl Site {
    /// A site that is up, with the usual weight and plenty of room.
    pub(crate) fn new(server: ServerId, domain: String) -> Self {
        Self {
            server,
            domain,
            weight: Weight::default(),
            free: None,
            is_up: true,
            is_closed: false,
        }
    }
}

impl Site {
    /// Whether shares go there.
    pub(crate) fn takes(&self) -> bool {
        self.is_up && !self.is_closed
    }
}

/// A share, and the place of its cloud in the list of sites.
pub(crate) type Spot = (ShareNum, usize);

/// Returns how many of `held` are left when the `lost` largest are gone.
fn left<K>(held: BTreeMap<K, usize>, lost: usize) -> usize {
    let mut held: Vec<usize> = held.into_values().collect();
    held.sort_unstable_by(|a, b| b.cmp(a));
    held.iter().skip(lost).sum()
}

impl Rule {
    /// Returns whether a stream may be acknowledged with these shares, of which no two are alike.
    pub(crate) fn is_met(&self, sites: &[Site], stored: &[Spot]) -> bool {
        let (k, n) = (usize::from(self.geometry.k), usize::from(self.geometry.n));
        let (mut clouds, mut domains) = (BTreeMap::new(), BTreeMap::new());
        for (_, site) in stored {
            *clouds.entry(*site).or_default() += 1;
            *domains.entry(&sites[*site].domain).or_default() += 1;
        }
        let survives_domains = left(domains, self.survive) >= k;
        if clouds.len() == n {
            // Each share is on a cloud of its own. What cannot survive more, with the domains that
            // there are, is as good as it gets.
            return survives_domains || !self.can_survive_domains(sites);
        }
        let further = (n - k).saturating_sub(n.saturating_sub(clouds.len()));
        left(clouds, further) >= k && survives_domains
    }

    /// Returns whether shares can be placed so that `survive` domains may be lost, if all sites are
    /// up.
    fn can_survive_domains(&self, sites: &[Site]) -> bool {
        let (k, n) = (usize::from(self.geometry.k), usize::from(self.geometry.n));
        let domains = sites.iter().map(|site| &*site.domain);
        let mut most: Vec<usize> = most_homes(domains, n).into_values().collect();
        most.sort_unstable_by(|a, b| b.cmp(a));
        let lost: usize = most.iter().take(self.survive).sum();
        n.saturating_sub(lost) >= k
    }

    /// Returns the least number of clouds, each a failure domain of its own, that can take a
    /// stream.
    pub(crate) fn least_clouds(&self) -> usize {
        let n = usize::from(self.geometry.n);
        let number = |site| u32::try_from(site).unwrap_or(u32::MAX);
        let site = |site: usize| Site::new(ServerId::of(number(site)), site.to_string());
        let sites: Vec<Site> = (0..n).map(site).collect();
        let is_enough = |clouds: &usize| {
            let spots =
                (0..self.geometry.n).map(|share| (ShareNum(share), usize::from(share) % clouds));
            self.is_met(&sites, &spots.collect::<Vec<_>>())
        };
        (1..=n).find(is_enough).unwrap_or(n)
    }

    /// Adds shares that are `missing` as second shares, until the rule is met: each in the failure
    /// domain with the fewest, and there on the site among `on` with the fewest. Returns whether it
    /// is met.
    pub(crate) fn add_seconds(
        &self,
        sites: &[Site],
        spots: &mut Vec<Spot>,
        missing: impl IntoIterator<Item = ShareNum>,
        on: &[usize],
    ) -> bool {
        for share in missing {
            if self.is_met(sites, spots) {
                return true;
            }
            let held = |site: &&usize| {
                let domain = &sites[**site].domain;
                let beside = spots.iter().filter(|(_, at)| sites[*at].domain == *domain);
                let there = spots.iter().filter(|(_, at)| at == *site);
                (beside.count(), there.count())
            };
            let Some(site) = on.iter().min_by_key(held) else {
                return false;
            };
            spots.push((share, *site));
        }
        self.is_met(sites, spots)
    }

    /// Returns whether the rule can be met by computing shares from those that are stored, or will
    /// be, and storing them on the same clouds.
    pub(crate) fn can_be_met(&self, sites: &[Site], stored: &[Spot]) -> bool {
        stored.len() >= usize::from(self.geometry.k)
            && self.add_seconds(
                sites,
                &mut stored.to_vec(),
                self.missing(stored),
                &sites_of(stored),
            )
    }

    /// Returns the numbers of the shares that are not among `stored`.
    pub(crate) fn missing(&self, stored: &[Spot]) -> Vec<ShareNum> {
        let shares = (0..self.geometry.n).map(ShareNum);
        let is_there = |share: &ShareNum| stored.iter().any(|(other, _)| other == share);
        shares.filter(|share| !is_there(share)).collect()
    }

    /// Chooses where the shares of a stream go. Returns the home of each share, and the spots that
    /// are written: homes that are up, and second shares if the rule needs them. If it cannot be
    /// met all the same, every home is tried that is not closed. There must be a site. With fewer
    /// sites than shares, the shares that have no site of their own count as those of a cloud that
    /// is down.
    pub(crate) fn plan(&self, index: StorageIndex, sites: &[Site]) -> (Vec<usize>, Vec<Spot>) {
        let homes = homes(index, sites, self.geometry.n);
        let all: Vec<Spot> = (0..self.geometry.n)
            .map(ShareNum)
            .zip(homes.iter().copied())
            .collect();
        let has_its_own = |share: ShareNum| usize::from(share.0) < sites.len();
        let (mut spots, away): (Vec<Spot>, Vec<Spot>) = all
            .iter()
            .partition(|(share, site)| sites[*site].takes() && has_its_own(*share));
        let up: Vec<usize> = (0..sites.len())
            .filter(|site| sites[*site].takes())
            .collect();
        let missing = away.iter().map(|(share, _)| *share);
        match self.add_seconds(sites, &mut spots, missing, &up) {
            true => (homes, spots),
            false => {
                let open = all.into_iter().filter(|(_, site)| !sites[*site].is_closed);
                (homes, open.collect())
            }
        }
    }
}

/// Returns the most of `n` homes that each failure domain may have, if all sites are up. `domains`
/// has the domain of each site. Homes are chosen in rounds: in each, every domain that has sites
/// left gives one.
pub(crate) fn most_homes<'a>(
    domains: impl Iterator<Item = &'a str>,
    n: usize,
) -> BTreeMap<&'a str, usize> {
    let mut sites: BTreeMap<&str, usize> = BTreeMap::new();
    for domain in domains {
        *sites.entry(domain).or_default() += 1;
    }
    let homes = |rounds: usize| sites.values().map(|of| (*of).min(rounds)).sum::<usize>();
    let rounds = (1..=n).find(|rounds| homes(*rounds) >= n).unwrap_or(n);
    sites.values_mut().for_each(|of| *of = (*of).min(rounds));
    sites
}

/// Returns the sites that have a share, each once.
pub(crate) fn sites_of(spots: &[Spot]) -> Vec<usize> {
    let sites: std::collections::BTreeSet<usize> = spots.iter().map(|(_, site)| *site).collect();
    sites.into_iter().collect()
}

/// Free space from which a site is chosen as often as its weight says. With less it is chosen in
/// proportion to what is free, so that sites fill up together. It is much more than what a site
/// gets until that is measured again.
const PLENTY: u64 = 1 << 40;
/// The least free space that counts, so that no site is left out for good.
const LEAST_FREE: u64 = 1 << 30;

/// How much a site is preferred: its weight, less if little is free there.
fn preference(site: &Site) -> f64 {
    let free = site
        .free
        .map_or(PLENTY, |free| free.clamp(LEAST_FREE, PLENTY));
    f64::from(site.weight.number()) * (free as f64 / PLENTY as f64)
}

/// The score of a site for a stream, by a hash over storage index and cloud: the lowest scores are
/// chosen. It is the time of the first event of a Poisson process whose rate is the preference, so
/// a site comes first as often as that says (Schindelhauer and Schomaker, 2005).
fn score(index: StorageIndex, site: &Site) -> f64 {
    let text = [&index.0[..], &site.server.number().to_be_bytes()].concat();
    let hash = blake3::hash(&text);
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    // 53 bits are what a float has. Adding a half keeps the logarithm finite.
    let uniform = ((u64::from_be_bytes(first) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln() / preference(site)
}

/// Chooses the home of each share by rendezvous hashing (Thaler and Ravishankar, 1998), weighted:
/// the clouds that are up first, and each failure domain once before any is taken twice. So the
/// share numbers of a cloud differ from stream to stream, and reads spread over all clouds.
fn homes(index: StorageIndex, sites: &[Site], n: u8) -> Vec<usize> {
    let scores = sites.iter().map(|site| score(index, site));
    let mut order: Vec<(usize, f64)> = scores.enumerate().collect();
    order.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    let mut ranked: Vec<((bool, bool), usize, usize)> = Vec::new();
    for (site, _) in order {
        let times = taken.entry(&sites[site].domain).or_default();
        let rank = (sites[site].is_closed, !sites[site].is_up);
        ranked.push((rank, *times, site));
        *times += 1;
    }
    // Stable: within equals, the order of the hashes stays.
    ranked.sort_by_key(|(rank, times, _)| (*rank, *times));
    let ranked: Vec<usize> = ranked.into_iter().map(|(_, _, site)| site).collect();
    ranked.into_iter().cycle().take(n.into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(k: u8, n: u8, survive: usize) -> Rule {
        Rule {
            geometry: Geometry { k, n },
            survive,
        }
    }

    fn sites(up: &[bool], domains: usize) -> Vec<Site> {
        let site = |(i, is_up): (usize, &bool)| Site {
            is_up: *is_up,
            ..Site::new(ServerId::of(i as u32 + 1), (i % domains).to_string())
        };
        up.iter().enumerate().map(site).collect()
    }

    /// The table of what is acknowledged with 2-of-4 that survives one more.
    #[test]
    fn two_of_four_are_acknowledged_as_the_table_says() {
        let rule = rule(2, 4, 1);
        let index = StorageIndex([7; 16]);
        let counts = |up: [bool; 4]| {
            let sites = sites(&up, 4);
            let (_, spots) = rule.plan(index, &sites);
            let mut counts: Vec<usize> = (0..4)
                .map(|site| spots.iter().filter(|(_, at)| *at == site).count())
                .collect();
            counts.sort_unstable();
            (counts, rule.is_met(&sites, &spots))
        };
        assert_eq!(counts([true; 4]), (vec![1, 1, 1, 1], true));
        assert_eq!(counts([true, false, true, true]), (vec![0, 1, 1, 1], true));
        assert_eq!(counts([true, false, true, false]), (vec![0, 0, 2, 2], true));
        // With three down nothing can be acknowledged, and all are tried.
        assert_eq!(
            counts([false, false, true, false]),
            (vec![1, 1, 1, 1], true)
        );
        let one = sites(&[false, false, true, false], 4);
        let on_one: Vec<Spot> = (0..4).map(|share| (ShareNum(share), 2)).collect();
        assert!(!rule.is_met(&one, &on_one));
        assert_eq!(rule.least_clouds(), 2);
        assert_eq!(super::tests::rule(3, 4, 1).least_clouds(), 4);
        assert_eq!(super::tests::rule(3, 10, 1).least_clouds(), 2);
    }

    #[test]
    fn clouds_of_one_domain_count_once() {
        // Two domains of two clouds each: losing one leaves two shares, which suffice.
        let rule = rule(2, 4, 1);
        let two = sites(&[true; 4], 2);
        let spot = |share: u8, site: usize| (ShareNum(share), site);
        assert!(rule.is_met(&two, &[spot(0, 0), spot(1, 1), spot(2, 2), spot(3, 3)]));
        // One of the clouds is down: the domain that has two shares may go, and one is left.
        assert!(!rule.is_met(&two, &[spot(0, 0), spot(1, 1), spot(2, 2)]));
        // A second share beside the one that is left makes it whole.
        assert!(rule.is_met(&two, &[spot(0, 0), spot(1, 1), spot(2, 2), spot(3, 1)]));
    }

    /// Once the rule took the four clouds of one place for as good as it gets, since each share had
    /// a cloud of its own.
    #[test]
    fn with_one_of_two_places_down_nothing_is_acknowledged_in_the_other() {
        let rule = rule(2, 4, 1);
        let up: Vec<bool> = (0..8).map(|site| site % 2 == 0).collect();
        let places = sites(&up, 2);
        let (_, spots) = rule.plan(StorageIndex([7; 16]), &places);
        assert!(!rule.is_met(&places, &spots), "{spots:?}");
        let all = sites(&[true; 8], 2);
        let (_, spots) = rule.plan(StorageIndex([7; 16]), &all);
        assert!(rule.is_met(&all, &spots));
        // In a single place nothing better can be had.
        let single = sites(&[true; 8], 1);
        let (_, spots) = rule.plan(StorageIndex([7; 16]), &single);
        assert!(rule.is_met(&single, &spots));
    }

    proptest! {
        /// What is acknowledged survives whatever it should, whichever clouds are lost.
        #[test]
        fn what_is_acknowledged_survives(
            (k, m) in (1..5_u8, 1..5_u8), survive in 0..3_usize, domains in 1..6_usize,
            up in proptest::collection::vec(any::<bool>(), 1..10), index: [u8; 16],
        ) {
            let n = k + m;
            let (rule, sites) = (rule(k, n, survive), sites(&up, domains));
            let (homes, spots) = rule.plan(StorageIndex(index), &sites);
            let distinct: std::collections::BTreeSet<_> = homes.iter().collect();
            let own = usize::from(n).min(sites.len());
            prop_assert_eq!((homes.len(), distinct.len()), (usize::from(n), own));
            let shares: std::collections::BTreeSet<_> = spots.iter().map(|(share, _)| share).collect();
            prop_assert_eq!(shares.len(), spots.len(), "no share twice");
            prop_assume!(rule.is_met(&sites, &spots));
            let used: std::collections::BTreeSet<usize> = spots.iter().map(|(_, site)| *site).collect();
            prop_assume!(used.len() < usize::from(n));
            let down = usize::from(n) - used.len();
            let further = usize::from(m).saturating_sub(down);
            for lost in 0_u32..1 << sites.len() {
                let is_lost = |site: &usize| lost & (1 << site) != 0;
                let lost_clouds = used.iter().filter(|site| is_lost(site)).count();
                let lost_domains: std::collections::BTreeSet<_> =
                    used.iter().filter(|site| is_lost(site)).map(|site| &sites[*site].domain).collect();
                if lost_clouds <= further || lost_domains.len() <= survive {
                    let left = spots.iter().filter(|(_, site)| !is_lost(site)).count();
                    prop_assert!(left >= usize::from(k), "{spots:?} without {lost:b}");
                }
            }
        }

        /// A cloud of three times the weight gets three times the shares of the others.
        #[test]
        fn heavy_clouds_get_more(seed: [u8; 8]) {
            let mut sites = sites(&[true; 7], 7);
            sites[0].weight = Weight::new(300).unwrap();
            let mut counts = [0_u32; 7];
            for i in 0..1000_u64 {
                let mut index = [0; 16];
                index[..8].copy_from_slice(&seed);
                index[8..].copy_from_slice(&i.to_be_bytes());
                counts[homes(StorageIndex(index), &sites, 1)[0]] += 1;
            }
            prop_assert!((260..410).contains(&counts[0]), "{counts:?}");
            prop_assert!(counts[1..].iter().all(|count| (60..170).contains(count)), "{counts:?}");
        }

        /// Of little free space, each cloud gets as much as it has. What is known to be plenty, and
        /// what is not known, count the same.
        #[test]
        fn clouds_with_little_room_get_less(seed: [u8; 8]) {
            let mut sites = sites(&[true; 4], 4);
            sites[0].free = Some(PLENTY / 4);
            sites[1].free = Some(PLENTY * 9);
            sites[2].free = Some(0);
            let mut counts = [0_u32; 4];
            for i in 0..1000_u64 {
                let mut index = [0; 16];
                index[..8].copy_from_slice(&seed);
                index[8..].copy_from_slice(&i.to_be_bytes());
                counts[homes(StorageIndex(index), &sites, 1)[0]] += 1;
            }
            prop_assert!((60..170).contains(&counts[0]), "{counts:?}");
            prop_assert!(counts[2] < 20, "{counts:?}");
            prop_assert!(counts[1].abs_diff(counts[3]) < 150, "{counts:?}");
        }

        /// Each share number comes to each cloud equally often.
        #[test]
        fn homes_rotate(seed: [u8; 8]) {
            let sites = sites(&[true; 4], 4);
            let mut counts = [[0_u32; 4]; 4];
            for i in 0..400_u64 {
                let mut index = [0; 16];
                index[..8].copy_from_slice(&seed);
                index[8..].copy_from_slice(&i.to_be_bytes());
                for (share, site) in homes(StorageIndex(index), &sites, 4).into_iter().enumerate() {
                    counts[share][site] += 1;
                }
            }
            prop_assert!(counts.as_flattened().iter().all(|count| (55..150).contains(count)), "{counts:?}");
        }
    }
}
