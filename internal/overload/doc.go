// Package overload notices when memory runs short and when there is enough again, and says
// when those who are turned away are to come back.
//
// [Guard.WatchMemory] looks again and again, and has what can be given up relieved;
// [Guard.Overloaded] is asked before anything new is taken, and its refusal is
// [ErrOverloaded]. [Returns.After] spreads those who come back: the more they are, the later.
package overload
