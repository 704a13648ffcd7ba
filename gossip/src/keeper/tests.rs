//! What a keeper does by itself, among others that are played by hand.

use rand::SeedableRng;
use rand::rngs::StdRng;
use sustain_proto::{ServiceName, Signature, SnapshotId, Term};

use super::*;
use crate::limits;
use crate::sim::stamp::Stamp;

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn service() -> ServiceName {
    ServiceName::new("mail").unwrap()
}

fn term(counter: u64, node: u8) -> Term {
    Term { counter, node: id(node), nonce: 0 }
}

fn line(counter: u64, node: u8) -> Line {
    Line { service: service(), term: term(counter, node) }
}

fn pack(number: u64) -> Pack {
    let pack = PackId::of(&number.to_le_bytes());
    Pack { id: pack, bytes: 100_000, cut: None, sheet: None, added: 0 }
}

fn entry(term: Term, seq: u64, manifest_bytes: usize, packs: Vec<Pack>) -> Entry {
    let mut manifest = vec![seq as u8; manifest_bytes.max(64)];
    manifest[..8].copy_from_slice(&seq.to_le_bytes());
    manifest[8..16].copy_from_slice(&term.counter.to_le_bytes());
    let id = SnapshotId::of_manifest(&manifest);
    Entry { id, term, origin: None, seq, added: 0, base: None, manifest: manifest.into(), packs }
}

fn report(term: Term, node: u8, to: u64, is_capped: bool) -> Message {
    let (service, life, number, index) = (service(), 1, 1, Some(node));
    let report =
        Report { service, term, node: id(node), life, number, is_whole: false, index, to, is_capped };
    Message::Report(report)
}

struct Node {
    keeper: Keeper,
    random: StdRng,
    now_ms: u64,
    /// What was to be done, with the time.
    done: Vec<(u64, Action)>,
}

impl Node {
    fn new(me: u8, config: KeeperConfig) -> Self {
        let signer = Arc::new(Stamp(id(me)));
        let keeper = Keeper::new(id(me), config, Overlays::default(), 1, Kept::default(), signer);
        Self { keeper, random: StdRng::seed_from_u64(me.into()), now_ms: 0, done: Vec::new() }
    }

    /// A node that knows of so many others, and has chosen what to hold.
    fn among(me: u8, others: u8, config: KeeperConfig) -> Self {
        let mut node = Self::new(me, config);
        let nodes = (0..others).map(|number| (id(number), String::new())).collect();
        node.tell(Event::Alive { nodes });
        node.wait(4_000);
        node
    }

    fn tell(&mut self, event: Event) -> Vec<Action> {
        let actions = self.keeper.handle(self.now_ms, event, &mut self.random);
        self.done.extend(actions.iter().map(|action| (self.now_ms, action.clone())));
        actions
    }

    fn hear(&mut self, from: u8, message: Message) -> Vec<Action> {
        self.tell(Event::Message { from: id(from), message })
    }

    /// Lets time go by.
    fn wait(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        while self.keeper.wakes_ms() <= until_ms {
            self.now_ms = self.keeper.wakes_ms();
            let actions = self.tell(Event::Wake);
            self.answer(actions);
        }
        self.now_ms = until_ms;
    }

    /// Node 1 gives one pack; nobody has anything else.
    fn answer(&mut self, mut actions: Vec<Action>) {
        while let Some(action) = actions.pop() {
            let Action::Send { to, message: Message::Ask { request, part, missing, .. } } = action else {
                continue;
            };
            let from = to.as_bytes()[0];
            if part == pack(GIVEN).whole() && from == 1 {
                let range = missing.iter().next().unwrap();
                actions.extend(self.hear(from, Message::Grant { request, range }));
                actions.extend(self.tell(Event::Fetched { request, range, is_last: true }));
            } else {
                let why = Refusal::Lack { have: Ranges::default(), is_coming: false };
                actions.extend(self.hear(from, Message::Refuse { request, why }));
            }
        }
    }

    fn retain(&mut self, term: Term, tolerance: u8, entries: Vec<Entry>) -> Arc<Catalog> {
        let (terms, merged, warm) = Default::default();
        let event = Event::Retained { service: service(), term, tolerance, warm, terms, merged, entries };
        self.tell(event);
        Arc::clone(self.keeper.catalog_of_line(&Line { service: service(), term }).unwrap())
    }

    /// Offers a catalog, and hands over what is asked for until nothing is. The messages that it took.
    fn give(&mut self, from: u8, catalog: &Catalog, change: impl Fn(&mut Page)) -> usize {
        let digest = Message::Digest { catalogs: vec![(service(), catalog.version)], buckets: None };
        let mut actions = self.hear(from, digest);
        let mut pages = 0;
        while let Some(action) = actions.pop() {
            if let Action::Send { to: _, message: Message::Get { known, .. } } = &action {
                let mut page = pages::page_of(catalog, known);
                change(&mut page);
                pages += 1;
                assert!(pages < 100, "no end of it");
                actions.extend(self.hear(from, Message::Catalog(Box::new(page))));
            } else {
                self.answer(vec![action]);
            }
        }
        pages
    }

    fn accused(&self) -> usize {
        self.done.iter().filter(|(_, action)| matches!(action, Action::Misbehaved { .. })).count()
    }
}

/// The pack that node 1 gives.
const GIVEN: u64 = 1_000;

#[test]
fn a_catalog_comes_as_what_is_new_and_in_pages_where_it_is_large() {
    let (mut server, mut node) =
        (Node::new(9, KeeperConfig::default()), Node::new(1, KeeperConfig::default()));
    let term = term(1, 9);
    let mut entries: Vec<Entry> = (1..=40).map(|seq| entry(term, seq, 60_000, vec![pack(seq)])).collect();
    let first = server.retain(term, 1, entries.clone());
    assert!(node.give(9, &first, |_| {}) >= 5, "2.4 MB in messages of half a megabyte");
    assert_eq!(node.keeper.catalog(&service()), Some(&first));
    entries.retain(|entry| entry.seq % 3 != 0);
    entries.extend((41..=43).map(|seq| entry(term, seq, 100, vec![pack(seq)])));
    let second = server.retain(term, 1, entries);
    let sizes = std::cell::RefCell::new(Vec::new());
    let measure = |page: &mut Page| {
        let message = Message::Catalog(Box::new(page.clone()));
        sizes.borrow_mut().push(codec::encode(&message).unwrap().len());
    };
    assert_eq!(node.give(9, &second, measure), 1);
    assert_eq!(node.keeper.catalog(&service()), Some(&second));
    assert!(sizes.borrow()[0] < 3_000, "{sizes:?}");
    assert_eq!(node.accused(), 0);
}

#[test]
fn a_line_that_went_on_from_another_comes_as_what_is_new() {
    let (mut old, mut node) = (Node::new(8, KeeperConfig::default()), Node::new(1, KeeperConfig::default()));
    let entries: Vec<Entry> = (1..=30).map(|seq| entry(term(1, 8), seq, 60_000, vec![pack(seq)])).collect();
    let first = old.retain(term(1, 8), 1, entries.clone());
    node.give(8, &first, |_| {});
    let mut new = Node::new(9, KeeperConfig::default());
    new.give(8, &first, |_| {});
    let mut entries = entries;
    let origin = Some(sustain_proto::TermOrigin { parent: term(1, 8), seq: 30 });
    entries.push(Entry { origin, ..entry(term(2, 9), 31, 100, vec![pack(31)]) });
    let second = new.retain(term(2, 9), 1, entries);
    assert_eq!(second.inherits, Some(first.version));
    assert_eq!(node.give(9, &second, |page| assert_eq!(page.catalog.entries.len(), 1)), 1);
    assert_eq!(node.keeper.catalogs(&service()).collect::<Vec<_>>(), [&second], "the other one goes");
    let forgotten = Action::Forget { service: service(), term: term(1, 8) };
    assert!(node.done.iter().any(|(_, action)| *action == forgotten));
}

#[test]
fn what_its_server_did_not_sign_is_dropped_and_who_sent_it_is_named() {
    let mut server = Node::new(9, KeeperConfig::default());
    let term = term(1, 9);
    let catalog = server.retain(term, 1, vec![entry(term, 1, 100, vec![pack(1)])]);
    let lies: [fn(&mut Page); 5] = [
        |page| page.catalog.spread_to = 1,
        |page| page.catalog.signature = Signature::from_bytes(&[1; 64]),
        |page| page.catalog.entries[0].id = SnapshotId::from_bytes([3; 32]),
        |page| page.catalog.server = id(5),
        |page| page.entries = 2,
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let mut node = Node::new(1, KeeperConfig::default());
        node.give(5, &catalog, lie);
        assert_eq!((node.keeper.catalog(&service()), node.accused()), (None, 1), "lie {number}");
        node.give(9, &catalog, |_| {});
        assert_eq!(node.keeper.catalog(&service()), Some(&catalog), "after lie {number}");
    }
}

/// Who sends again and again what does not fit is not asked for ever.
#[test]
fn an_entry_that_changed_is_fetched_with_all_others() {
    let (mut server, mut node) =
        (Node::new(9, KeeperConfig::default()), Node::new(1, KeeperConfig::default()));
    let term = term(1, 9);
    let entries = vec![entry(term, 1, 100, vec![pack(1)]), entry(term, 2, 100, vec![pack(2)])];
    let first = server.retain(term, 1, entries.clone());
    node.give(9, &first, |_| {});
    let mut other = entries;
    other[0].packs.push(pack(7));
    let second = server.retain(term, 1, other);
    assert_eq!(node.give(9, &second, |_| {}), 2, "what is new, and then all of it");
    assert_eq!(node.keeper.catalog(&service()), Some(&second));
    assert_eq!(node.accused(), 0);
}

/// Parts whose only holder was gone were asked for by each node at the same pace for ever, and kept the places of those
/// that could be had.
#[test]
fn what_nobody_can_give_neither_spins_nor_keeps_others_back() {
    let mut node = Node::among(3, 5, KeeperConfig::default());
    let mut server = Node::new(9, KeeperConfig::default());
    let term = term(1, 9);
    let packs = (0..3 * limits::JOBS_ACTIVE as u64).map(pack).collect();
    let mut entries = vec![entry(term, 1, 100, packs)];
    node.give(1, &server.retain(term, 1, entries.clone()), |_| {});
    node.wait(120_000);
    entries.push(entry(term, 2, 100, vec![pack(GIVEN)]));
    let (catalog, at_ms) = (server.retain(term, 1, entries), node.now_ms);
    node.give(1, &catalog, |_| {});
    node.wait(1_200_000);
    let synced = Action::Sync { part: pack(GIVEN).whole() };
    let came = node.done.iter().find(|(_, action)| *action == synced).unwrap();
    assert!(came.0 < at_ms + 10_000, "it came at {} ms, {at_ms} ms is when it was there", came.0);
    let asked = |from_ms: u64, to_ms: u64| {
        let is_ask = |action: &Action| matches!(action, Action::Send { message: Message::Ask { .. }, .. });
        node.done.iter().filter(|(at, action)| (from_ms..to_ms).contains(at) && is_ask(action)).count()
    };
    let (soon, late) = (asked(0, 120_000), asked(node.now_ms - 120_000, node.now_ms));
    assert!(late * 3 < soon, "{soon} requests in the first two minutes, {late} in the last");
    assert!(node.done.len() < 20_000, "{} actions", node.done.len());
}

/// A request that got lost was waited for as long as for the bytes that it asks for. With a few lost in a row, along
/// the tree by which holders of a fragment pass it on, a neighbourhood had six fragments of seven for more than 25 s.
#[test]
fn a_request_without_an_answer_is_not_waited_for_as_long_as_for_bytes() {
    let mut node = Node::among(3, 5, KeeperConfig::default());
    let mut server = Node::new(9, KeeperConfig::default());
    let (term, part) = (term(1, 9), pack(GIVEN).whole());
    let catalog = server.retain(term, 1, vec![entry(term, 1, 100, vec![pack(GIVEN)])]);
    let digest = Message::Digest { catalogs: vec![(service(), catalog.version)], buckets: None };
    node.hear(1, digest);
    let page = pages::page_of(&catalog, &[]);
    let lost = node.hear(1, Message::Catalog(Box::new(page)));
    assert!(lost.iter().any(|action| matches!(action, Action::Send { message: Message::Ask { .. }, .. })));
    node.wait(6_000);
    assert!(node.done.iter().any(|(_, action)| *action == Action::Sync { part }));
}

#[test]
fn a_part_that_is_lost_is_wanted_again() {
    let mut node = Node::among(3, 5, KeeperConfig::default());
    let mut server = Node::new(9, KeeperConfig::default());
    let term = term(1, 9);
    let part = pack(GIVEN).whole();
    let catalog = server.retain(term, 1, vec![entry(term, 1, 100, vec![pack(GIVEN)])]);
    node.give(1, &catalog, |_| {});
    node.wait(5_000);
    node.tell(Event::Synced { part });
    assert_eq!(node.keeper.unfinished(), "");
    node.done.clear();
    node.tell(Event::Lost { part });
    node.wait(20_000);
    assert!(node.done.iter().any(|(_, action)| *action == Action::Sync { part }));
}

#[test]
fn levels_go_by_the_service_s_own_tolerance_and_caps_are_named() {
    let mut server = Node::among(9, 10, KeeperConfig::default());
    let term = term(1, 9);
    let catalog = server.retain(term, 3, vec![entry(term, 1, 100, vec![pack(1)])]);
    for node in 1..=4 {
        server.hear(node, report(term, node, catalog.version.number, false));
    }
    server.hear(5, report(term, 5, 0, true));
    let level = |level| Action::Level { service: service(), id: catalog.entries[0].id, level };
    let levels = server.done.iter().map(|(_, action)| action).filter(|it| matches!(it, Action::Level { .. }));
    assert_eq!(
        levels.collect::<Vec<_>>(),
        [&level(None), &level(Some(0)), &level(Some(1)), &level(Some(2)), &level(Some(3))]
    );
    assert_eq!(server.keeper.capped(&line(1, 9)), [id(5)]);
}

#[test]
fn a_node_that_starts_again_forgets_what_was_covered_when_it_ended() {
    let mut old = Node::new(8, KeeperConfig::default());
    let first = old.retain(term(1, 8), 1, vec![entry(term(1, 8), 1, 100, vec![pack(1)])]);
    let mut new = Node::new(9, KeeperConfig::default());
    new.give(8, &first, |_| {});
    let origin = Some(sustain_proto::TermOrigin { parent: term(1, 8), seq: 1 });
    let entries = vec![Entry { origin, ..entry(term(2, 9), 2, 100, vec![pack(2)]) }];
    let second = new.retain(term(2, 9), 1, entries);
    let kept = Kept { catalogs: vec![Arc::clone(&second), first], ..Kept::default() };
    let signer = Arc::new(Stamp(id(1)));
    let mut keeper = Keeper::new(id(1), KeeperConfig::default(), Overlays::default(), 1, kept, signer);
    let actions = keeper.handle(1, Event::Wake, &mut StdRng::seed_from_u64(1));
    assert!(actions.contains(&Action::Forget { service: service(), term: term(1, 8) }));
    assert_eq!(keeper.catalogs(&service()).collect::<Vec<_>>(), [&second]);
}

#[test]
fn too_many_lines_are_said_to_be() {
    let mut node = Node::new(1, KeeperConfig::default());
    for number in 0..=limits::LINES_MAX as u8 {
        let mut server = Node::new(100 + number, KeeperConfig::default());
        let term = term(1, 100 + number);
        let catalog = server.retain(term, 1, vec![entry(term, 1, 100, Vec::new())]);
        node.give(100 + number, &catalog, |_| {});
    }
    assert_eq!(node.keeper.catalogs(&service()).count(), limits::LINES_MAX);
    assert!(node.done.iter().any(|(_, action)| matches!(action, Action::TooMuch { .. })));
}

/// The numbers of another one's claim for this node were added to without a bound.
#[test]
fn a_claim_with_the_greatest_numbers_is_no_end() {
    let mut node = Node::among(3, 5, KeeperConfig::default());
    let claim = Claim { node: id(3), life: u64::MAX, number: u64::MAX, index: None, moving: None };
    node.hear(1, Message::Claims { claims: vec![claim], differing: 0 });
    node.wait(5_000);
}

#[test]
fn what_a_node_says_that_failed_its_audits_does_not_count_until_it_passes_again() {
    let mut server = Node::among(0, 5, KeeperConfig::default());
    let term = term(1, 0);
    let catalog = server.retain(term, 1, vec![entry(term, 1, 100, vec![pack(1)])]);
    let level = |level| Action::Level { service: service(), id: catalog.entries[0].id, level };
    server.hear(1, report(term, 1, catalog.version.number, false));
    assert!(server.hear(2, report(term, 2, catalog.version.number, false)).contains(&level(Some(1))));
    let doubted = Event::Doubted { nodes: [id(2)].into() };
    assert!(server.tell(doubted).contains(&level(Some(0))));
    let again = server.hear(2, report(term, 2, catalog.version.number, false));
    assert!(!again.contains(&level(Some(1))), "it says so again: {again:?}");
    assert!(server.hear(3, report(term, 3, catalog.version.number, false)).contains(&level(Some(1))));
    assert!(server.tell(Event::Doubted { nodes: [].into() }).contains(&level(Some(2))));
}
