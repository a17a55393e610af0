//! What the accounts server must have done, found from its answers alone.
//!
//! The server numbers the transfers that it carries out. Every acknowledged transfer is known with
//! its number, so they can be put in order and carried out once more: an acknowledgement that was
//! lost or repeated leaves a gap or a double; a process that went on from an older state gives
//! balances that the order contradicts. As one would check a bank by collecting every receipt.

/// Accounts of the server.
pub const ACCOUNTS: u32 = 1024;
/// What each holds at first.
pub const OPENING_BALANCE: u64 = 1000;

/// An acknowledged transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Its number, from 1.
    pub seq: u64,
    /// The account that paid.
    pub from: u32,
    /// The account that was paid.
    pub to: u32,
    /// How much.
    pub amount: u64,
    /// The balance of `from` after it.
    pub left: u64,
    /// The balance of `to` after it.
    pub there: u64,
}

/// What the server says at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// Sum of all balances.
    pub sum: u64,
    /// Transfers carried out.
    pub count: u64,
    /// Its running checksum.
    pub checksum: u64,
}

/// Carries the transfers out again, in the order of their numbers, and returns every
/// contradiction found, in words.
pub fn audit(mut transfers: Vec<Transfer>, closing: Closing) -> Vec<String> {
    let mut found = Vec::new();
    transfers.sort_unstable_by_key(|transfer| transfer.seq);
    let mut balances = vec![OPENING_BALANCE; ACCOUNTS as usize];
    let mut checksum = FNV_START;
    let mut next = 1;
    for transfer in &transfers {
        if transfer.seq < next {
            found.push(format!("transfer {} was acknowledged twice", transfer.seq));
            continue;
        }
        if transfer.seq > next {
            found.push(format!(
                "transfers {next} to {} were carried out but never acknowledged",
                transfer.seq - 1
            ));
            // What they changed is not known, so later balances cannot be judged.
            return found;
        }
        next += 1;
        let (from, to) = (transfer.from as usize, transfer.to as usize);
        let expected = balances
            .get(from)
            .and_then(|left| left.checked_sub(transfer.amount))
            .zip(balances.get(to).map(|there| there + transfer.amount));
        if expected != Some((transfer.left, transfer.there)) {
            found.push(format!(
                "transfer {} of {} from {from} to {to} left the balances {} and {}; the transfers \
                 before it say {expected:?}",
                transfer.seq, transfer.amount, transfer.left, transfer.there
            ));
            return found;
        }
        balances[from] = transfer.left;
        balances[to] = transfer.there;
        for word in [
            transfer.seq,
            transfer.from.into(),
            transfer.to.into(),
            transfer.amount,
        ] {
            checksum = fnv(checksum, word);
        }
    }
    let sum = u64::from(ACCOUNTS) * OPENING_BALANCE;
    if closing.sum != sum {
        found.push(format!("the accounts hold {}, not {sum}", closing.sum));
    }
    if closing.count != next - 1 {
        found.push(format!(
            "the server counts {} transfers, and acknowledged {}",
            closing.count,
            next - 1
        ));
    } else if closing.checksum != checksum {
        found.push(format!(
            "the server's checksum is {:016x}; its answers give {checksum:016x}",
            closing.checksum
        ));
    }
    found
}

/// FNV-1a's start.
const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a over the eight little-endian bytes of a word.
fn fnv(checksum: u64, word: u64) -> u64 {
    word.to_le_bytes().iter().fold(checksum, |checksum, &byte| {
        (checksum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The accounts server as it should be; tests lie with it.
#[cfg(test)]
#[derive(Clone)]
pub struct Bank {
    balances: Vec<u64>,
    count: u64,
    checksum: u64,
}

#[cfg(test)]
impl Bank {
    pub fn open() -> Bank {
        Bank {
            balances: vec![OPENING_BALANCE; ACCOUNTS as usize],
            count: 0,
            checksum: FNV_START,
        }
    }

    pub fn transfer(&mut self, from: u32, to: u32, amount: u64) -> Transfer {
        self.count += 1;
        self.balances[from as usize] -= amount;
        self.balances[to as usize] += amount;
        for word in [self.count, from.into(), to.into(), amount] {
            self.checksum = fnv(self.checksum, word);
        }
        Transfer {
            seq: self.count,
            from,
            to,
            amount,
            left: self.balances[from as usize],
            there: self.balances[to as usize],
        }
    }

    pub fn balance(&self, account: u32) -> u64 {
        self.balances[account as usize]
    }

    pub fn closing(&self) -> Closing {
        Closing {
            sum: self.balances.iter().sum(),
            count: self.count,
            checksum: self.checksum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(seed: u64) -> (Vec<Transfer>, Closing) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bank = Bank::open();
        let mut transfers: Vec<Transfer> = (0..2000)
            .map(|_| {
                let from = random.u32(..ACCOUNTS);
                let to = (from + random.u32(1..ACCOUNTS)) % ACCOUNTS;
                bank.transfer(from, to, random.u64(1..8))
            })
            .collect();
        random.shuffle(&mut transfers);
        (transfers, bank.closing())
    }

    #[test]
    fn an_honest_day_has_no_contradiction() {
        for seed in 0..20 {
            let (transfers, closing) = day(seed);
            assert_eq!(
                audit(transfers, closing),
                Vec::<String>::new(),
                "seed {seed}"
            );
        }
    }

    #[test]
    fn the_checksum_is_the_servers() {
        // `printf` of the accounts server after one transfer of 5 from 1 to 2.
        let mut bank = Bank::open();
        bank.transfer(1, 2, 5);
        let bytes: Vec<u8> = [1u64, 1, 2, 5]
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .collect();
        let mut expected = 0xcbf2_9ce4_8422_2325u64;
        for byte in bytes {
            expected ^= u64::from(byte);
            expected = expected.wrapping_mul(1_099_511_628_211);
        }
        assert_eq!(bank.closing().checksum, expected);
    }

    #[test]
    fn every_kind_of_lie_is_found() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (honest, closing) = day(seed);
            let at = random.usize(..honest.len());

            let mut lost = honest.clone();
            lost.swap_remove(at);
            let found = audit(lost, closing);
            assert!(found[0].contains("never acknowledged") || found[0].contains("counts"));

            let mut twice = honest.clone();
            twice.push(honest[at]);
            assert!(audit(twice, closing)[0].contains("acknowledged twice"));

            let mut altered = honest.clone();
            altered[at].left += 1;
            assert!(audit(altered, closing)[0].contains("left the balances"));

            let mut other = closing;
            other.checksum ^= 1 << random.u32(..64);
            assert!(audit(honest.clone(), other)[0].contains("checksum"));

            let mut poorer = closing;
            poorer.sum -= 1;
            assert!(audit(honest, poorer)[0].contains("hold"));
        }
    }

    #[test]
    fn going_on_from_an_older_state_is_found() {
        // A copy of the bank is made; both answer for a while, as after a rollback.
        let mut bank = Bank::open();
        let mut transfers: Vec<_> = (0..10).map(|i| bank.transfer(i, i + 1, 1)).collect();
        let mut older = bank.clone();
        transfers.extend((0..5).map(|i| bank.transfer(i, i + 2, 1)));
        transfers.extend((0..9).map(|i| older.transfer(i + 7, i, 2)));
        assert!(!audit(transfers, older.closing()).is_empty());
    }
}
