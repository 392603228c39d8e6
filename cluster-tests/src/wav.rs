//! Tones in WAV files: what a phone plays, and whether another phone has heard it.

use std::f64::consts::TAU;
use std::fs;
use std::io;
use std::path::Path;

/// Samples a second of a telephone.
pub const RATE: u32 = 8000;
/// Loudness of the tone, of 32,767.
const AMPLITUDE: f64 = 12_000.0;

/// Writes a tone, 16 bit mono.
///
/// # Errors
/// The file cannot be written.
pub fn write_tone(path: &Path, hertz: u32, seconds: u32) -> io::Result<()> {
    let octets = RATE * seconds * 2;
    let mut out = Vec::with_capacity(44 + octets as usize);
    out.extend_from_slice(b"RIFF");
    out.extend_from_slice(&(36 + octets).to_le_bytes());
    out.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    out.extend_from_slice(&RATE.to_le_bytes());
    out.extend_from_slice(&(RATE * 2).to_le_bytes());
    out.extend_from_slice(b"\x02\0\x10\0data");
    out.extend_from_slice(&octets.to_le_bytes());
    for n in 0..RATE * seconds {
        let sample = AMPLITUDE * (TAU * f64::from(hertz) * f64::from(n) / f64::from(RATE)).sin();
        #[expect(clippy::cast_possible_truncation, reason = "the amplitude is below 32,767")]
        out.extend_from_slice(&(sample as i16).to_le_bytes());
    }
    fs::write(path, out)
}

/// The samples of a 16-bit mono file; the header of a file still being written is not believed.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<i16>> {
    let bytes = fs::read(path)?;
    let data = bytes.windows(4).position(|w| w == b"data").map_or(44, |at| at + 8);
    Ok(bytes.get(data..).unwrap_or_default().chunks_exact(2).map(|s| i16::from_le_bytes([s[0], s[1]])).collect())
}

/// How much of the power of `samples` is at `hertz`, 0 to 1 (Goertzel); 0 for silence.
pub fn share_of(samples: &[i16], hertz: u32) -> f64 {
    let total: f64 = samples.iter().map(|s| f64::from(*s).powi(2)).sum();
    // Under -60 dB of a full tone: silence, whatever its spectrum.
    let silence = AMPLITUDE.powi(2) / 2.0 * 1e-6;
    let count = samples.len() as f64;
    if samples.is_empty() || total / count < silence {
        return 0.0;
    }
    let omega = TAU * f64::from(hertz) / f64::from(RATE);
    let (mut real, mut imaginary) = (0.0, 0.0);
    for (n, sample) in samples.iter().enumerate() {
        let phase = omega * n as f64;
        real += f64::from(*sample) * phase.cos();
        imaginary += f64::from(*sample) * phase.sin();
    }
    2.0 * (real * real + imaginary * imaginary) / count / total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_is_told_from_another_and_from_silence() {
        let path = crate::command::scratch("tone.wav");
        write_tone(&path, 440, 1).unwrap();
        let samples = read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(samples.len(), 8000);
        assert!(share_of(&samples, 440) > 0.95, "{}", share_of(&samples, 440));
        assert!(share_of(&samples, 700) < 0.05);
        assert!(share_of(&[0; 800], 440) == 0.0 && share_of(&[], 440) == 0.0);
    }
}
