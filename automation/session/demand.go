package session

import "time"

// demand is what decides how many more sessions a queue should have opened.
type demand struct {
	waiting int           // requests in the queue
	unpaid  int           // of these, how many may have a session opened for them
	live    int           // sessions of the pool, in use or not
	idle    int           // of these, free
	opening int           // opens under way for the pool
	ending  int           // of those in use, the ones that this replica is about to release
	hold    time.Duration // for how long a request typically holds a session
	open    time.Duration // how long an open typically takes
	stalled time.Duration // for how long nothing has happened to the queue
}

// opens returns how many sessions are worth their price. The first one is. One
// more is where the last of the queue would wait longer for its turn than for
// an open, or where the queue has already stood still for that long.
func (d demand) opens() int {
	n := 0
	for n < d.unpaid {
		unserved := d.waiting - d.idle - d.ending - d.opening - n // who get none at once
		sessions := d.live + d.opening + n
		if unserved <= 0 {
			break
		}
		stalled := n == 0 && d.opening == 0 && d.stalled >= d.open
		if sessions > 0 && !stalled && time.Duration(unserved)*d.hold/time.Duration(sessions) <= d.open {
			break
		}
		n++
	}
	return n
}

// guessedOpen is how long an open is taken to last until one has been seen.
const guessedOpen = 5 * time.Second

// typicalCall is how long the node has lately needed for an open.
func (m *Manager) typicalCall() time.Duration {
	if d := m.calls.load(); d > 0 {
		return d
	}
	return guessedOpen
}

// typicalOpen is how long an open lately took, its turn at the wallet included.
func (m *Manager) typicalOpen() time.Duration {
	if d := m.opens.load(); d > 0 {
		return d
	}
	return guessedOpen
}
