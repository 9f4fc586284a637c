//! Inputs: what others made, changed in a few places.

use fastrand::Rng;

/// Numbers at which lengths and counts go wrong.
const EXTREMES: [u64; 22] = [
    0,
    1,
    2,
    7,
    127,
    128,
    255,
    256,
    504,
    512,
    1_023,
    1_025,
    32_767,
    65_535,
    65_536,
    65_537,
    16 << 20,
    (16 << 20) + 1,
    0x7fff_ffff,
    0xffff_ffff,
    u64::MAX - 1,
    u64::MAX,
];

/// Any bytes at all.
pub(crate) fn invented(rng: &mut Rng) -> Vec<u8> {
    let bytes_max = [8, 64, 400, 400][rng.usize(0..4)];
    let length = rng.usize(0..=bytes_max);
    (0..length).map(|_| rng.u8(..)).collect()
}

/// A few changes of `input`. What is spliced in comes from `other`, and `words` are
/// what the format likes to read.
pub(crate) fn mutated(
    rng: &mut Rng,
    input: &[u8],
    other: &[u8],
    words: &[&[u8]],
    bytes_max: usize,
) -> Vec<u8> {
    let mut bytes = input.to_vec();
    // Mostly one change, for each further one makes it likelier that nothing is read.
    let changes = [1, 1, 1, 2, 2, 3, 5, 8][rng.usize(0..8)];
    for _ in 0..changes {
        match rng.u8(0..12) {
            0 => flip(rng, &mut bytes),
            1 | 2 => set_byte(rng, &mut bytes),
            3..=5 => set_number(rng, &mut bytes),
            6 => cut(rng, &mut bytes),
            7 => repeat(rng, &mut bytes),
            8 => splice(rng, &mut bytes, other),
            9 if !words.is_empty() => put_word(rng, &mut bytes, words),
            10 => set_decimal(rng, &mut bytes),
            _ => insert(rng, &mut bytes),
        }
    }
    bytes.truncate(bytes_max);
    bytes
}

fn flip(rng: &mut Rng, bytes: &mut [u8]) {
    if let Some(at) = place(rng, bytes) {
        bytes[at] ^= 1 << rng.u8(0..8);
    }
}

fn set_byte(rng: &mut Rng, bytes: &mut [u8]) {
    if let Some(at) = place(rng, bytes) {
        bytes[at] = match rng.u8(0..4) {
            0 => rng.u8(0..20),
            1 => [0, 1, 0x7f, 0x80, 0xff][rng.usize(0..5)],
            2 => bytes[at].wrapping_add([1, 0xff][rng.usize(0..2)]),
            _ => rng.u8(..),
        };
    }
}

/// Writes an extreme, or what is there a little larger or smaller, as a number of two,
/// four or eight bytes.
fn set_number(rng: &mut Rng, bytes: &mut [u8]) {
    let width = [2, 4, 8][rng.usize(0..3)];
    if bytes.len() < width {
        return;
    }
    let at = rng.usize(0..=bytes.len() - width);
    let mut word = [0; 8];
    word[..width].copy_from_slice(&bytes[at..at + width]);
    let here = u64::from_le_bytes(word);
    let number = match rng.u8(0..6) {
        0 => here.wrapping_add(rng.u64(1..4)),
        1 => here.wrapping_sub(rng.u64(1..4)),
        2 => bytes.len() as u64 - rng.u64(0..=bytes.len() as u64),
        _ => EXTREMES[rng.usize(0..EXTREMES.len())],
    };
    let mut word = number.to_le_bytes();
    if rng.u8(0..4) == 0 {
        word[..width].reverse();
    }
    bytes[at..at + width].copy_from_slice(&word[..width]);
}

fn cut(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let range = stretch(rng, bytes);
    if rng.bool() {
        bytes.truncate(range.start);
    } else {
        bytes.drain(range);
    }
}

fn repeat(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let range = stretch(rng, bytes);
    let copy = bytes[range.clone()].to_vec();
    let times = if copy.len() < 64 { rng.usize(1..20) } else { 1 };
    let at = range.end;
    bytes.splice(at..at, copy.repeat(times));
}

fn splice(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let from = stretch(rng, other);
    let to = stretch(rng, bytes);
    let to = if rng.bool() { to.start..to.start } else { to };
    bytes.splice(to, other[from].iter().copied());
}

fn put_word(rng: &mut Rng, bytes: &mut Vec<u8>, words: &[&[u8]]) {
    let word = words[rng.usize(0..words.len())];
    let mut at = rng.usize(0..=bytes.len());
    if rng.u8(0..4) > 0 {
        // In text what matters happens where a name or a number ends.
        at += bytes[at..].iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
    }
    let end = if rng.bool() { at } else { (at + word.len()).min(bytes.len()) };
    bytes.splice(at..end, word.iter().copied());
}

/// Replaces a number in decimal digits.
fn set_decimal(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let Some(from) = place(rng, bytes) else { return };
    let Some(start) = bytes[from..].iter().position(u8::is_ascii_digit) else { return };
    let start = from + start;
    let digits = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = EXTREMES[rng.usize(0..EXTREMES.len())].to_string();
    let text = match rng.u8(0..4) {
        0 => format!("-{number}"),
        1 => format!("{number}0"),
        _ => number,
    };
    bytes.splice(start..start + digits, text.bytes());
}

fn insert(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let at = rng.usize(0..=bytes.len());
    let more: Vec<u8> = (0..rng.usize(1..=8)).map(|_| rng.u8(..)).collect();
    bytes.splice(at..at, more);
}

fn place(rng: &mut Rng, bytes: &[u8]) -> Option<usize> {
    (!bytes.is_empty()).then(|| rng.usize(0..bytes.len()))
}

/// A stretch of the bytes, short more often than long.
fn stretch(rng: &mut Rng, bytes: &[u8]) -> std::ops::Range<usize> {
    let start = rng.usize(0..=bytes.len());
    let rest = bytes.len() - start;
    let length = if rng.bool() { rng.usize(0..=rest.min(16)) } else { rng.usize(0..=rest) };
    start..start + length
}
