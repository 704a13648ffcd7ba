//! Compares libraries for erasure codes: what encoding and decoding cost on one core, for extents of several sizes.
//!
//! An extent is cut into k fragments, to which m − k are added; any k of the m rebuild it. Encoding makes all that
//! are added. Decoding rebuilds an extent of which half of the k first fragments (rounded down) are gone, from the
//! rest and as many added ones. GB/s of data, the best of several turns; what is rebuilt is compared with the data.

use std::time::Instant;

const EXTENTS: [usize; 4] = [64 << 10, 256 << 10, 1 << 20, 4 << 20];
const CODES: [(usize, usize); 3] = [(6, 16), (6, 24), (12, 48)];
/// Data of one turn.
const TURN_BYTES: usize = 24 << 20;
const TURNS: usize = 5;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A library, used for extents of one shape.
trait Library {
    /// The fragments that are added to these.
    fn encode(&self, data: &[Vec<u8>]) -> Outcome<Vec<Vec<u8>>>;

    /// The data, from fragments of which some are missing.
    fn decode(&self, have: Vec<Option<Vec<u8>>>) -> Outcome<Vec<Vec<u8>>>;
}

/// A matrix over GF(2^8), by C code for the processor at hand.
struct Erasure(reed_solomon_erasure::galois_8::ReedSolomon, usize);

impl Library for Erasure {
    fn encode(&self, data: &[Vec<u8>]) -> Outcome<Vec<Vec<u8>>> {
        let mut added = vec![vec![0; data[0].len()]; self.0.parity_shard_count()];
        self.0.encode_sep(data, &mut added)?;
        Ok(added)
    }

    fn decode(&self, mut have: Vec<Option<Vec<u8>>>) -> Outcome<Vec<Vec<u8>>> {
        self.0.reconstruct_data(&mut have)?;
        have.truncate(self.1);
        have.into_iter().map(|fragment| fragment.ok_or_else(|| "not rebuilt".into())).collect()
    }
}

/// A fast Fourier transform over GF(2^16), in Rust.
struct Simd(usize, usize);

impl Library for Simd {
    fn encode(&self, data: &[Vec<u8>]) -> Outcome<Vec<Vec<u8>>> {
        Ok(reed_solomon_simd::encode(self.0, self.1 - self.0, data)?)
    }

    fn decode(&self, have: Vec<Option<Vec<u8>>>) -> Outcome<Vec<Vec<u8>>> {
        let data =
            have[..self.0].iter().enumerate().filter_map(|(n, fragment)| Some((n, fragment.as_ref()?)));
        let added =
            have[self.0..].iter().enumerate().filter_map(|(n, fragment)| Some((n, fragment.as_ref()?)));
        let mut rebuilt = reed_solomon_simd::decode(self.0, self.1 - self.0, data, added)?;
        let mut all = Vec::new();
        for (number, fragment) in have.into_iter().take(self.0).enumerate() {
            all.push(fragment.or_else(|| rebuilt.remove(&number)).ok_or("not rebuilt")?);
        }
        Ok(all)
    }
}

/// GB/s of encoding and of decoding.
fn measure(library: &dyn Library, k: usize, m: usize, extent: usize) -> Outcome<(f64, f64)> {
    // Fragments are of even lengths, as one of the libraries wants.
    let bytes = extent.div_ceil(k).next_multiple_of(64);
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    let data: Vec<Vec<u8>> = (0..k).map(|_| (0..bytes).map(|_| random()).collect()).collect();
    let added = library.encode(&data)?;
    let lost = k / 2;
    let have: Vec<Option<Vec<u8>>> = (data.iter().enumerate().map(|(n, f)| (n >= lost).then(|| f.clone())))
        .chain(added.iter().enumerate().map(|(n, f)| (n >= m - k - lost).then(|| f.clone())))
        .collect();
    if library.decode(have.clone())? != data {
        return Err("what was rebuilt is not the data".into());
    }
    let repeats = (TURN_BYTES / extent).max(1);
    let speed = |work: &dyn Fn() -> Outcome<()>| -> Outcome<f64> {
        let mut best = f64::MAX;
        for _ in 0..TURNS {
            let started = Instant::now();
            for _ in 0..repeats {
                work()?;
            }
            best = best.min(started.elapsed().as_secs_f64());
        }
        Ok((repeats * extent) as f64 / best / 1e9)
    };
    let encode = speed(&|| library.encode(&data).map(drop))?;
    let decode = speed(&|| library.decode(have.clone()).map(drop))?;
    Ok((encode, decode))
}

fn main() -> Outcome<()> {
    println!(
        "GB/s of data: encoding, decoding\n{:>10} {:>8} | reed-solomon-erasure | reed-solomon-simd",
        "extent", "k, m"
    );
    for (k, m) in CODES {
        for extent in EXTENTS {
            let erasure = Erasure(reed_solomon_erasure::galois_8::ReedSolomon::new(k, m - k)?, k);
            let (one, other) = (measure(&erasure, k, m, extent)?, measure(&Simd(k, m), k, m, extent)?);
            let code = format!("{k}, {m}");
            println!(
                "{:>6} KiB {code:>8} | {:>9.2} {:>10.2} | {:>8.2} {:>8.2}",
                extent >> 10,
                one.0,
                one.1,
                other.0,
                other.1
            );
        }
    }
    Ok(())
}
