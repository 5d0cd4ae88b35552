// Package settings is the environment: [Load] reads and checks it, and names what is wrong;
// [Unknown] and [Config.Misfits] find what nobody meant. A [Config] says what it comes to for
// others ([Config.Access], [Config.Memory], [Config.Disk], [Config.Proxies], [NewLogger]).
// [PrintHelp], [Usage] and [Version] are what the program tells of itself. A Config does not
// change, so there is no lock.
package settings
