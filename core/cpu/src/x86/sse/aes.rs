//! AES-NI (FIPS 197; SDM vol. 2). The state's byte `4 * column + row` is byte `i` of the vector.

use super::int::{Vector, from_u8s, from_u32s, map_u64, u8s, u32s};

/// Multiplication by x in GF(2^8) modulo the AES polynomial.
const fn xtime(x: u8) -> u8 {
    (x << 1) ^ ((x >> 7) * 0x1B)
}

/// Multiplication in GF(2^8).
const fn gmul(mut x: u8, mut y: u8) -> u8 {
    let mut out = 0;
    while y != 0 {
        if y & 1 != 0 {
            out ^= x;
        }
        x = xtime(x);
        y >>= 1;
    }
    out
}

/// The S-box: the inverse in GF(2^8) (0 for 0), then the affine map.
const fn sbox() -> [u8; 256] {
    let mut out = [0; 256];
    let mut i = 0;
    while i < 256 {
        // x^254 is the inverse.
        let x = i as u8;
        let mut power = 1;
        let mut square = x;
        let mut bit = 1;
        while bit < 8 {
            square = gmul(square, square);
            power = gmul(power, square);
            bit += 1;
        }
        let v = power;
        out[i] =
            v ^ v.rotate_left(1) ^ v.rotate_left(2) ^ v.rotate_left(3) ^ v.rotate_left(4) ^ 0x63;
        i += 1;
    }
    out
}

const fn inverse_sbox(sbox: &[u8; 256]) -> [u8; 256] {
    let mut out = [0; 256];
    let mut i = 0;
    while i < 256 {
        out[sbox[i] as usize] = i as u8;
        i += 1;
    }
    out
}

/// The products of one byte with a column of the (inverse) mix matrix, per byte value.
const fn products(column: [u8; 4]) -> [u32; 256] {
    let mut out = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut row = 0;
        while row < 4 {
            out[i] |= (gmul(i as u8, column[row]) as u32) << (8 * row);
            row += 1;
        }
        i += 1;
    }
    out
}

static SBOX: [u8; 256] = sbox();
static INVERSE_SBOX: [u8; 256] = inverse_sbox(&SBOX);
static MIX: [u32; 256] = products([2, 1, 1, 3]);
static INVERSE_MIX: [u32; 256] = products([14, 9, 13, 11]);

/// SubBytes and ShiftRows (row `r` goes `r` columns to the left).
fn sub_shift(a: Vector) -> [u8; 16] {
    let a = u8s(a);
    core::array::from_fn(|i| SBOX[usize::from(a[(i + 4 * (i % 4)) % 16])])
}

/// Their inverses.
fn inverse_sub_shift(a: Vector) -> [u8; 16] {
    let a = u8s(a);
    core::array::from_fn(|i| INVERSE_SBOX[usize::from(a[(i + 16 - 4 * (i % 4)) % 16])])
}

/// MixColumns with the given products.
fn mix(bytes: [u8; 16], table: &[u32; 256]) -> Vector {
    from_u32s(core::array::from_fn(|column| {
        (0..4).fold(0, |sum, row| {
            sum ^ table[usize::from(bytes[4 * column + row])].rotate_left(8 * row as u32)
        })
    }))
}

/// AddRoundKey.
fn xor(a: Vector, key: Vector) -> Vector {
    map_u64(a, key, |x, y| x ^ y)
}

/// AESENC.
pub(super) fn enc(a: Vector, key: Vector) -> Vector {
    xor(mix(sub_shift(a), &MIX), key)
}

/// AESENCLAST.
pub(super) fn enc_last(a: Vector, key: Vector) -> Vector {
    xor(from_u8s(sub_shift(a)), key)
}

/// AESDEC.
pub(super) fn dec(a: Vector, key: Vector) -> Vector {
    xor(mix(inverse_sub_shift(a), &INVERSE_MIX), key)
}

/// AESDECLAST.
pub(super) fn dec_last(a: Vector, key: Vector) -> Vector {
    xor(from_u8s(inverse_sub_shift(a)), key)
}

/// AESIMC.
pub(super) fn imc(a: Vector) -> Vector {
    mix(u8s(a), &INVERSE_MIX)
}

/// AESKEYGENASSIST.
pub(super) fn keygen_assist(a: Vector, round: u8) -> Vector {
    let a = u32s(a);
    let sub = |x: u32| u32::from_le_bytes(x.to_le_bytes().map(|b| SBOX[usize::from(b)]));
    let word = |x: u32| sub(x).rotate_right(8) ^ u32::from(round);
    from_u32s([sub(a[1]), word(a[1]), sub(a[3]), word(a[3])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boxes_are_the_standards() {
        assert_eq!(SBOX[..4], [0x63, 0x7C, 0x77, 0x7B]);
        assert_eq!(SBOX[0x53], 0xED);
        assert!((0..=255).all(|i: u8| INVERSE_SBOX[usize::from(SBOX[usize::from(i)])] == i));
    }

    #[test]
    fn a_block_encrypts_and_decrypts_as_in_fips_197() {
        // Appendix C.1.
        let key = u128::from_be_bytes(core::array::from_fn(|i| i as u8)).swap_bytes();
        let block = u128::from_be_bytes(core::array::from_fn(|i| i as u8 * 0x11)).swap_bytes();
        let expected = 0x69C4_E0D8_6A7B_0430_D8CD_B780_70B4_C55A_u128.swap_bytes();
        let mut keys = [Vector::from_bits(key); 11];
        let mut rcon = 1;
        for round in 1..11 {
            let last = keys[round - 1];
            let word = u32s(keygen_assist(last, rcon))[3];
            let mut running = word;
            keys[round] = from_u32s(u32s(last).map(|w| {
                running ^= w;
                running
            }));
            rcon = xtime(rcon);
        }
        let mut state = xor(Vector::from_bits(block), keys[0]);
        for key in &keys[1..10] {
            state = enc(state, *key);
        }
        state = enc_last(state, keys[10]);
        assert_eq!(state.bits(), expected);
        state = xor(state, keys[10]);
        for key in keys[1..10].iter().rev() {
            state = dec(state, imc(*key));
        }
        assert_eq!(dec_last(state, keys[0]).bits(), block);
    }
}
