//! Levels (the stored small integers) in and out of the lines of a block.

use super::layout::{BLOCK, LINE, QUADS, TILE_ROWS};

/// Line (counted from the first of its kind) and bit shift of quad `s` among lines with `bits` per level.
#[inline(always)]
fn place(bits: u32, s: usize) -> (usize, u32) {
    match bits {
        8 => (s, 0),
        4 => (s / 2, (s % 2 * 4) as u32),
        2 => (s / 4, (s % 4 * 2) as u32),
        _ => (0, s as u32),
    }
}

/// Writes the levels of one row into a zeroed block.
pub(crate) fn put(block: &mut [u8], (low, high): (u32, u32), lane: usize, levels: &[u8; BLOCK]) {
    for (i, level) in levels.iter().enumerate() {
        let (s, byte) = (i / 4, lane * 4 + i % 4);
        let (line, shift) = place(low, s);
        block[line * LINE + byte] |= (level & (0xff >> (8 - low))) << shift;
        if high > 0 {
            let (line, shift) = place(high, s);
            block[(low as usize + line) * LINE + byte] |= level >> low << shift;
        }
    }
}

/// Reads the levels of one row.
pub(crate) fn get(block: &[u8], (low, high): (u32, u32), lane: usize) -> [u8; BLOCK] {
    std::array::from_fn(|i| {
        let (s, byte) = (i / 4, lane * 4 + i % 4);
        let (line, shift) = place(low, s);
        let mut level = block[line * LINE + byte] >> shift & (0xff >> (8 - low));
        if high > 0 {
            let (line, shift) = place(high, s);
            level |= (block[(low as usize + line) * LINE + byte] >> shift & (0xff >> (8 - high))) << low;
        }
        level
    })
}

/// Reads the levels of all rows: quad after quad, as lines of bytes.
#[inline(always)]
pub(crate) fn all(block: &[u8], (low, high): (u32, u32), out: &mut [u8; QUADS * LINE]) {
    for s in 0..QUADS {
        let quad = &mut out[s * LINE..][..LINE];
        let (line, shift) = place(low, s);
        let (mask, from) = (0xff >> (8 - low), &block[line * LINE..][..LINE]);
        for i in 0..LINE {
            quad[i] = from[i] >> shift & mask;
        }
        if high > 0 {
            let (line, shift) = place(high, s);
            let (mask, from) = (0xff >> (8 - high), &block[(low as usize + line) * LINE..][..LINE]);
            for i in 0..LINE {
                quad[i] |= (from[i] >> shift & mask) << low;
            }
        }
    }
}

const _: () = assert!(TILE_ROWS * 4 == LINE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_for_every_row_comes_back_by_row_and_by_quad() {
        for bits in [(8, 0), (4, 0), (4, 1), (4, 2), (2, 0), (2, 1)] {
            let lines = (bits.0 + bits.1) as usize;
            let mut block = vec![0; lines * LINE];
            let level = |lane: usize, i: usize| {
                (lane * 37 + i * 11 + i * i) as u8 & (0xffu32 >> (8 - bits.0 - bits.1)) as u8
            };
            for lane in 0..TILE_ROWS {
                put(&mut block, bits, lane, &std::array::from_fn(|i| level(lane, i)));
            }
            let mut quads = [0; QUADS * LINE];
            all(&block, bits, &mut quads);
            for lane in 0..TILE_ROWS {
                let row = get(&block, bits, lane);
                for i in 0..BLOCK {
                    assert_eq!(row[i], level(lane, i), "{bits:?} lane {lane} column {i}");
                    assert_eq!(quads[i / 4 * LINE + lane * 4 + i % 4], row[i]);
                }
            }
        }
    }
}
