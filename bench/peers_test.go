package main

import (
	"crypto/sha256"
	"testing"
)

func TestPeers_AnswerCorrectly(t *testing.T) {
	for _, p := range peers() {
		t.Run(p.name, func(t *testing.T) {
			o, err := p.open()
			if err != nil {
				t.Fatal(err)
			}
			defer o.close()
			if err := o.check(); err != nil {
				t.Error(err)
			}
		})
	}
}

func BenchmarkBareSHA256(b *testing.B) {
	input := []byte(rollout + "." + unlisted(1))
	for b.Loop() {
		sha256.Sum256(input)
	}
}

func BenchmarkPeers(b *testing.B) {
	for _, p := range peers() {
		o, err := p.open()
		if err == nil {
			err = o.check()
		}
		if err != nil {
			b.Fatalf("%s: %v", p.name, err)
		}
		timed := o.cases()
		for _, name := range caseNames {
			b.Run(p.name+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					timed[name]()
				}
			})
		}
		o.close()
	}
}
