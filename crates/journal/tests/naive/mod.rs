//! A second reader of the journal's format, for tests: written from the documented
//! tables alone, slow and simple. It looks at whole files in memory, first takes note
//! of what every sector is, and then decides from that table.

use std::collections::BTreeMap;

pub(crate) type Ballot = (u64, u32);

/// Contents of the folder: segment number to file.
pub(crate) type Files = BTreeMap<u64, Vec<u8>>;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Content(Box<Content>),
    Missing,
    WrongCluster,
    Version,
    Damaged { segment: u64, offset: u64 },
    PromiseNotProvable { segment: u64, offset: u64 },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Content {
    pub(crate) promised: Ballot,
    pub(crate) chosen_upto: u64,
    pub(crate) truncated_upto: u64,
    pub(crate) position: u64,
    pub(crate) incarnation: u64,
    pub(crate) torn: bool,
    /// Above the watermark: ballot, or none for chosen; value, or none for a no-op.
    pub(crate) open: BTreeMap<u64, (Option<Ballot>, Option<Vec<u8>>)>,
    /// Above the truncation point, up to the watermark.
    pub(crate) chosen: BTreeMap<u64, Option<Vec<u8>>>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Zero,
    Group(u32, bool),
    Broken,
}

struct Head {
    incarnation: u64,
    promised: Ballot,
    chosen: u64,
    truncated: u64,
    oldest: u64,
    highest_before: u64,
    previous_sectors: u64,
    previous_position: u64,
    previous_link: u32,
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().unwrap())
}
fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().unwrap())
}
fn ballot_at(b: &[u8], at: usize) -> Ballot {
    (u64_at(b, at), u32_at(b, at + 8))
}
fn ends_in_crc(b: &[u8]) -> bool {
    crc32c::crc32c(&b[..b.len() - 4]) == u32_at(b, b.len() - 4)
}

/// A sector that was written does not end with eight zeros.
fn ends_in_mark(sector: &[u8]) -> bool {
    sector[sector.len().max(8) - 8..].iter().any(|byte| *byte != 0)
}

pub(crate) fn sector_kind(
    cluster: u128,
    segment: u64,
    sector: u64,
    b: &[u8],
) -> Option<(u32, bool)> {
    match kind(cluster, segment, sector, b) {
        Kind::Group(group, first) => Some((group, first)),
        _ => None,
    }
}

fn kind(cluster: u128, segment: u64, sector: u64, b: &[u8]) -> Kind {
    if b == [0; 512] {
        return Kind::Zero;
    }
    let mut covered = cluster.to_le_bytes().to_vec();
    covered.extend(segment.to_le_bytes());
    covered.extend(sector.to_le_bytes());
    covered.extend(&b[..508]);
    match crc32c::crc32c(&covered) == u32_at(b, 508) {
        true => Kind::Group(u32_at(b, 504) & 0x7fff_ffff, u32_at(b, 504) >> 31 == 1),
        false => Kind::Broken,
    }
}

/// What stands in `files`, the segments of a journal of `cluster`.
pub(crate) fn read(files: &Files, cluster: u128) -> Verdict {
    match read_or_refuse(files, cluster) {
        Ok(content) => Verdict::Content(Box::new(content)),
        Err(refusal) => refusal,
    }
}

fn read_or_refuse(files: &Files, cluster: u128) -> Result<Content, Verdict> {
    let used = |b: &Vec<u8>| {
        let mut sectors = b.chunks(512);
        sectors.next().is_some_and(|head| head.iter().any(|byte| *byte != 0))
            || sectors.any(ends_in_mark)
    };
    let Some((&newest, _)) = files.iter().rev().find(|(_, b)| used(b)) else {
        return Err(Verdict::Missing);
    };
    // The newest segment decides what must be there, so it is judged first.
    let newest_head = head(files, newest, cluster, false)?;
    let groups = groups_of_newest(&files[&newest], newest, cluster, &newest_head)?;
    let oldest = match groups.0.last() {
        Some(group) => u64_at(group, 64),
        None => newest_head.oldest,
    };
    let mut heads = BTreeMap::new();
    for number in oldest..newest {
        if !files.contains_key(&number) {
            return Err(Verdict::Damaged { segment: number, offset: 0 });
        }
        heads.insert(number, head(files, number, cluster, true)?);
    }
    heads.insert(newest, newest_head);

    let first = &heads[&oldest];
    let truncated_upto = first.truncated.max(first.highest_before);
    let mut content = Content {
        promised: (0, 0),
        chosen_upto: 0,
        truncated_upto,
        position: 0,
        incarnation: heads[&newest].incarnation,
        torn: groups.1,
        open: BTreeMap::new(),
        chosen: BTreeMap::new(),
    };
    for (number, head) in &heads {
        content.promised = head.promised;
        content.chosen_upto = head.chosen;
        content.position = head.previous_position;
        let mut link = head.previous_link;
        let payloads = match heads.get(&(number + 1)) {
            None => groups.0.clone(),
            Some(next) => sealed_groups(&files[number], *number, cluster, next)?,
        };
        for payload in payloads {
            let fits = take_group(&payload, &mut content, &mut link, cluster);
            fits.ok_or(Verdict::Damaged { segment: *number, offset: 0 })?;
        }
        if let Some(next) = heads.get(&(number + 1))
            && (next.previous_position, next.previous_link, next.promised)
                != (content.position, link, content.promised)
        {
            return Err(Verdict::Damaged { segment: *number, offset: 0 });
        }
    }
    Ok(content)
}

fn head(files: &Files, number: u64, cluster: u128, followed: bool) -> Result<Head, Verdict> {
    let b = &files[&number];
    let refuse = |offset| match followed {
        true => Err(Verdict::Damaged { segment: number, offset }),
        false => Err(Verdict::PromiseNotProvable { segment: number, offset }),
    };
    if b.len() < 512 || &b[..8] != b"SynodSeg" || !ends_in_crc(&b[..512]) {
        return refuse(0);
    }
    if u32_at(b, 8) != 1 {
        return Err(Verdict::Version);
    }
    if b[12..28] != cluster.to_le_bytes() {
        return Err(Verdict::WrongCluster);
    }
    if u64_at(b, 28) != number {
        return refuse(0);
    }
    let length = u64_at(b, 36);
    if length != b.len() as u64 {
        return refuse(length.min(b.len() as u64) / 512 * 512);
    }
    Ok(Head {
        incarnation: u64_at(b, 44),
        promised: ballot_at(b, 52),
        chosen: u64_at(b, 64),
        truncated: u64_at(b, 72),
        oldest: u64_at(b, 80),
        highest_before: u64_at(b, 88),
        previous_sectors: u64_at(b, 96),
        previous_position: u64_at(b, 104),
        previous_link: u32_at(b, 112),
    })
}

fn table(b: &[u8], segment: u64, cluster: u128) -> Vec<Kind> {
    b.chunks(512).zip(0..).map(|(sector, at)| kind(cluster, segment, at, sector)).collect()
}

/// Cuts the sectors `from..to` into groups numbered from 1; the payload of each. Stops
/// at the first sector that does not continue, and returns that, too.
fn cut(b: &[u8], table: &[Kind], from: usize, to: usize) -> (Vec<Vec<u8>>, Option<usize>) {
    let (mut groups, mut at) = (Vec::new(), from);
    while at < to {
        let number = groups.len() as u32 + 1;
        if table[at] != Kind::Group(number, true) {
            return (groups, Some(at));
        }
        let bytes = u64_at(b, at * 512 + 8) as usize;
        let sectors = bytes.div_ceil(504);
        if let Some(bad) =
            (at + 1..at + sectors).find(|at| *at >= to || table[*at] != Kind::Group(number, false))
        {
            return (groups, Some(bad));
        }
        let mut payload = Vec::new();
        for sector in at..at + sectors {
            payload.extend(&b[sector * 512..sector * 512 + 504]);
        }
        payload.truncate(bytes);
        groups.push(payload);
        at += sectors;
    }
    (groups, None)
}

fn sealed_groups(
    b: &[u8],
    segment: u64,
    cluster: u128,
    next: &Head,
) -> Result<Vec<Vec<u8>>, Verdict> {
    let table = table(b, segment, cluster);
    let last = table.len() - 1;
    let footer_fits = b[last * 512..last * 512 + 8] == *b"SynodEnd"
        && u64_at(b, last * 512 + 8) == segment + 1
        && u64_at(b, last * 512 + 16) == next.previous_sectors;
    let offset = |sector: usize| sector as u64 * 512;
    if ends_in_mark(&b[last * 512..]) && (table[last] == Kind::Broken || !footer_fits) {
        return Err(Verdict::Damaged { segment, offset: offset(last) });
    }
    match cut(b, &table, 1, next.previous_sectors as usize) {
        (groups, None) => Ok(groups),
        (_, Some(bad)) => Err(Verdict::Damaged { segment, offset: offset(bad) }),
    }
}

/// A record, and whether a later group of its segment repeats its header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hit {
    pub(crate) position: u64,
    pub(crate) is_repeated: bool,
}

/// The first record that the sector at `offset` of an intact segment holds anything
/// of, or, if that has only a group's beginning, the first one of the group.
pub(crate) fn record_hit(b: &[u8], cluster: u128, segment: u64, offset: u64) -> Option<Hit> {
    let table = table(b, segment, cluster);
    let (groups, _) = cut(b, &table, 1, table.len() - 1);
    let damaged = offset as usize / 512;
    let mut first = 1;
    for (index, payload) in groups.iter().enumerate() {
        let sectors = payload.len().div_ceil(504);
        if (first..first + sectors).contains(&damaged) {
            let damaged_from = (damaged - first) * 504;
            let mut end = 88 + u32_at(payload, 20) as usize * 84;
            for number in 1..=u64::from(u32_at(payload, 16)) {
                end += 84 + u32_at(payload, end + 56) as usize;
                if end > damaged_from {
                    let position = u64_at(payload, 24) + number;
                    return Some(Hit { position, is_repeated: index + 1 < groups.len() });
                }
            }
        }
        first += sectors;
    }
    None
}

/// The complete groups, and whether a torn one follows.
fn groups_of_newest(
    b: &[u8],
    segment: u64,
    cluster: u128,
    _head: &Head,
) -> Result<(Vec<Vec<u8>>, bool), Verdict> {
    let table = table(b, segment, cluster);
    let last = table.len() - 1;
    let offset = |sector: usize| sector as u64 * 512;
    if ends_in_mark(&b[last * 512..]) {
        return Err(Verdict::PromiseNotProvable { segment, offset: offset(last) });
    }
    let (groups, stop) = cut(b, &table, 1, last);
    let Some(stop) = stop else { return Ok((groups, false)) };
    let begin = 1 + groups.iter().map(|payload| payload.len().div_ceil(504)).sum::<usize>();
    let rest = &table[begin..last];
    let number = groups.len() as u32 + 1;
    let highest = rest.iter().filter_map(|kind| match kind {
        Kind::Group(group, _) => Some(*group),
        _ => None,
    });
    let sealed = highest.max().is_some_and(|highest| highest > number);
    let broken = rest.iter().position(|kind| *kind == Kind::Broken);
    // Damage of zeros: no written sector ends with eight of them.
    let is_zeros =
        |at: usize| rest[at] != Kind::Broken || !ends_in_mark(&b[(begin + at) * 512..][..512]);
    if !sealed && broken.is_some() && rest[0] == Kind::Zero && (0..rest.len()).all(is_zeros) {
        return Ok((groups, true));
    }
    let bad = match (sealed, broken) {
        (true, _) => stop,
        (false, Some(at)) => begin + at,
        (false, None) => return Ok((groups, rest.iter().any(|kind| *kind != Kind::Zero))),
    };
    let proves = |kind: &Kind| matches!(kind, Kind::Group(group, true) if *group >= number);
    match rest.iter().any(proves) {
        true => Err(Verdict::Damaged { segment, offset: offset(bad) }),
        false => Err(Verdict::PromiseNotProvable { segment, offset: offset(bad) }),
    }
}

/// Adds the records of a group. None if they do not fit what came before.
fn take_group(payload: &[u8], content: &mut Content, link: &mut u32, cluster: u128) -> Option<()> {
    let (records, copies) = (u32_at(payload, 16), u32_at(payload, 20));
    let follows = u64_at(payload, 24) == content.position && u32_at(payload, 32) == *link;
    if &payload[..4] != b"SynG" || !ends_in_crc(&payload[..88]) || !follows {
        return None;
    }
    let mut at = 88 + copies as usize * 84;
    for _ in 0..records {
        let b = payload.get(at..at + 84)?;
        let body = payload.get(at + 84..at + 84 + u32_at(b, 56) as usize)?;
        let fits = &b[..4] == b"SynR"
            && ends_in_crc(b)
            && u32_at(b, 4) == crc32c::crc32c(&cluster.to_le_bytes())
            && u64_at(b, 8) == content.position + 1
            && u32_at(b, 64) == *link
            && u32_at(b, 60) == crc32c::crc32c(body);
        if !fits {
            return None;
        }
        content.position += 1;
        *link = u32_at(b, 80);
        content.promised = ballot_at(b, 36);
        let (slot, kind) = (u64_at(b, 16), b[68]);
        let value = (b[69] == 2).then(|| body.to_vec());
        let settled = slot <= content.truncated_upto || content.chosen.contains_key(&slot);
        match kind {
            2 if !settled => {
                let ballot = ballot_at(b, 24);
                let held = content.open.get(&slot);
                if held.is_none_or(|(old, _)| old.is_some_and(|old| old <= ballot)) {
                    content.open.insert(slot, (Some(ballot), value));
                }
            }
            3 if !settled => {
                content.open.insert(slot, (None, value));
            }
            4 => {
                content.truncated_upto = content.truncated_upto.max(slot);
                content.chosen_upto = content.chosen_upto.max(slot);
                content.open.retain(|held, _| *held > slot);
                content.chosen.retain(|held, _| *held > slot);
            }
            _ => {}
        }
        content.chosen_upto = content.chosen_upto.max(u64_at(b, 48));
        at += 84 + body.len();
    }
    for slot in content.truncated_upto + 1..=content.chosen_upto {
        if !content.chosen.contains_key(&slot) {
            let (_, value) = content.open.remove(&slot)?;
            content.chosen.insert(slot, value);
        }
    }
    (at == payload.len()).then_some(())
}
